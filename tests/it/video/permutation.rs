//! The order of an epoch without a list: a permutation.

use proptest::prelude::*;
use tubelet::video::Permutation;

proptest! {
    #[test]
    fn values_are_those_below_n_each_once(n in 1u64..3000, seed: u64, epoch in 0u64..1000) {
        let order = Permutation::new(n, seed, epoch);
        let mut values: Vec<u64> = (0..n).map(|i| order.at(i)).collect();
        values.sort_unstable();
        prop_assert!(values.into_iter().eq(0..n));
    }
}

/// At and around powers of four, where the number of bits changes, and at sizes whose values cannot be listed.
#[test]
fn sizes_at_the_limits() {
    for n in [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 255, 256, 257] {
        let order = Permutation::new(n, 1, 1);
        let mut values: Vec<u64> = (0..n).map(|i| order.at(i)).collect();
        values.sort_unstable();
        assert!(values.into_iter().eq(0..n), "{n}");
    }
    for n in [(1 << 32) - 1, 1 << 32, (1 << 32) + 1, u64::MAX - 1, u64::MAX] {
        let order = Permutation::new(n, 1, 1);
        let some: std::collections::BTreeSet<u64> = (0..1000).map(|i| order.at(i * (n / 1000))).collect();
        assert!(some.len() == 1000 && some.iter().all(|&x| x < n), "{n}");
    }
    assert!(Permutation::new(0, 1, 1).is_empty());
}

/// The same seed and epoch give the same order; others give another one.
#[test]
fn the_order_is_a_function_of_seed_and_epoch() {
    let of = |seed, epoch| -> Vec<u64> { (0..50).map(|i| Permutation::new(50, seed, epoch).at(i)).collect() };
    assert_eq!(of(3, 4), of(3, 4));
    assert!(of(3, 4) != of(3, 5) && of(3, 4) != of(4, 4));
    assert!(of(3, 4) != (0..50).collect::<Vec<u64>>());
}

/// Over many epochs each video is at each place equally often. A count is binomial, with mean 4000 / 10 and standard deviation
/// below 19; that one of the 100 is 6 of these off has a probability below 1e-6.
#[test]
fn each_video_is_equally_often_at_each_place() {
    let (n, epochs) = (10, 4000);
    let mut counts = vec![0i64; 100];
    for epoch in 0..epochs {
        let order = Permutation::new(n, 7, epoch);
        (0..n).for_each(|i| counts[(i * n + order.at(i)) as usize] += 1);
    }
    let worst = counts.iter().map(|c| (c - 400).abs()).max().unwrap();
    assert!(worst < 6 * 19, "{counts:?}");
}
