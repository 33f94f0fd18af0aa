//! The queue of negatives, and the mask that keeps a video's own keys out of them.

use crate::support::close::{assert_bounded, assert_norm};
use crate::support::numbers::{data, matrix, wide};
use tubelet::ops::infonce::{self, Mask};
use tubelet::ops::{self};
use tubelet::ssl::queue::Queue;
use tubelet::tape::{Mode, Tape};
use tubelet::tensor::{DType, Tensor};

#[test]
fn queue_replaces_the_oldest() {
    let mut q = Queue::new(5, 2).unwrap();
    let rows = |from: usize, n: usize| {
        let v: Vec<f32> = (from..from + n).flat_map(|i| [i as f32, -(i as f32)]).collect();
        Tensor::from_f32([n, 2], &v).unwrap()
    };
    q.push(&rows(0, 3), &[0, 1, 2].into()).unwrap();
    assert_eq!(q.owners(), [0, 1, 2, Mask::NOBODY, Mask::NOBODY]);
    assert_eq!((q.at(), q.filled()), (3, 3));
    q.push(&rows(3, 3), &[3, 4, 5].into()).unwrap();
    assert_eq!((q.at(), q.filled()), (1, 5));
    let firsts: Vec<f32> = data(q.keys()).chunks(2).map(|r| r[0]).collect();
    assert_eq!(firsts, [5.0, 1.0, 2.0, 3.0, 4.0]);
    assert_eq!(q.owners(), [5, 1, 2, 3, 4]);
    let owners: Vec<u32> = (6..18).collect();
    q.push(&rows(6, 12), &owners[..].into()).unwrap();
    let mut firsts: Vec<f32> = data(q.keys()).chunks(2).map(|r| r[0]).collect();
    firsts.sort_by(f32::total_cmp);
    assert_eq!(firsts, [13.0, 14.0, 15.0, 16.0, 17.0]);
}

#[test]
fn queue_is_restored_whole_or_not_at_all() {
    let mut a = Queue::new(5, 3).unwrap();
    a.push(&matrix(7, 3, 1), &[0, 1, 2, 3, 4, 5, 6].into()).unwrap();
    let mut b = Queue::restore(a.keys().clone(), a.owners().to_vec(), a.at()).unwrap();
    a.push(&matrix(2, 3, 2), &[7, 8].into()).unwrap();
    b.push(&matrix(2, 3, 2), &[7, 8].into()).unwrap();
    assert_eq!((data(a.keys()), a.at(), a.owners()), (data(b.keys()), b.at(), b.owners()));
    let (keys, owners) = (|| a.keys().clone(), || a.owners().to_vec());
    assert!(Queue::restore(keys(), owners(), 5).is_err());
    assert!(Queue::restore(keys(), vec![0; 4], 0).is_err());
    assert!(Queue::restore(keys().cast(DType::BF16).unwrap(), owners(), 0).is_err());
    assert!(Queue::restore(Tensor::zeros([0, 3]), vec![], 0).is_err());
    assert!(Queue::new(0, 3).is_err() && Queue::new(3, 0).is_err());
    assert!(a.push(&matrix(2, 4, 1), &[1, 2].into()).is_err());
    assert!(a.push(&matrix(2, 3, 1), &[1].into()).is_err());
}

/// A masked key is as good as absent: the gradient is that of the queue without it, however it is computed.
#[test]
fn masked_keys_are_no_negatives() {
    let (n, m, d, tau) = (3, 700, 8, 0.5);
    let (q, k, queue) = (matrix(n, d, 1), matrix(n, d, 2), matrix(m, d, 3));
    let keys: Vec<u32> = (0..m as u32).map(|j| if j % 5 == 0 { Mask::NOBODY } else { j % 4 }).collect();
    let rows = [0, 1, 9];
    let mask = Mask { rows: &rows, keys: &keys };
    let (_, dq) = infonce::forward_backward_masked(&q, &k, &queue, Some(mask), tau).unwrap();
    for (i, own) in rows.iter().enumerate() {
        let left: Vec<usize> = (0..m).filter(|&j| keys[j] != *own && keys[j] != Mask::NOBODY).collect();
        let (one, key, left) = (q.rows(&[i]).unwrap(), k.rows(&[i]).unwrap(), queue.rows(&left).unwrap());
        let want = infonce::reference::backward(&wide(&one), &wide(&key), &wide(&left), d, f64::from(tau));
        let got: Vec<f32> = data(&dq)[i * d..(i + 1) * d].iter().map(|v| v * n as f32).collect();
        assert_bounded("masked", &got, &want, DType::F32);
    }
    let t = Tape::new();
    let leaf = t.leaf(q.clone());
    let loss = ops::infonce_masked(&t, &leaf, &k, &queue, Some(mask), tau).unwrap().loss;
    let kept = t.grad(&loss, &[&leaf], Mode::Keep).unwrap().remove(0).unwrap();
    assert_norm("composed", &data(kept.value()), &data(&dq), 1e-5);
}

#[test]
fn an_empty_queue_has_nothing_to_say() {
    let (q, k, queue) = (matrix(3, 8, 1), matrix(3, 8, 2), Queue::new(300, 8).unwrap());
    let mask = Mask { rows: &[0, 1, 2], keys: queue.owners() };
    let (scores, dq) = infonce::forward_backward_masked(&q, &k, queue.keys(), Some(mask), 0.5).unwrap();
    assert_eq!((scores.loss, scores.positive, scores.accuracy), (0.0, 1.0, 1.0));
    assert!(data(&dq).iter().all(|v| *v == 0.0));
    let short = Mask { rows: &[0, 1], keys: queue.owners() };
    assert!(infonce::forward_masked(&q, &k, queue.keys(), Some(short), 0.5).is_err());
}
