//! InfoNCE's sweep with TMA and wgmma against the definition, on the simulator's Hopper.

use super::coverage::executed;
use super::infonce::{BF16, Problem, all_negative, check_on, unit};
use crate::support::numbers::{data, tensor};
use crate::support::sim::{Sim, on_hopper};
use ptxsim::{Order, Sums};
use tubelet::ops::infonce::{self, Layout, Owners, Plan, Pointers, Scores, Sort, Term};
use tubelet::tensor::{DType, Device, Tensor};

/// In the simulator, the kernels for Hopper have run in this test: the plan chose them.
fn took_part(kernels: usize) {
    if std::env::var_os("TUBELET_TEST_DEVICE").is_none() {
        assert_eq!(executed("infonce_sweep_sm90_"), kernels);
    }
}

/// Both widths; rows, keys and codes that divide nothing; a queue of one key.
#[test]
pub fn infonce_of_hopper_meets_the_reference() {
    for (n, d, m) in [(65, 64, 65), (70, 40, 130), (130, 128, 300), (129, 104, 64), (66, 72, 1), (200, 8, 257)] {
        check_on(&format!("{n} {d} {m}"), &Problem::new(n, d, m, 0.1, BF16), true);
    }
    took_part(2);
}

/// A smaller one, for mistakes that are made on purpose.
#[test]
pub fn a_part_of_many_tiles_meets_the_reference() {
    let p = Problem::new(66, 72, 64 * 9 + 30, 0.1, BF16);
    let bits = |parts: usize, masked: bool| {
        let want = p.want(masked, DType::BF16);
        let (scores, dq) = on_hopper(|device| {
            let (scores, dq) = planned(&p, device, parts, masked, true);
            let (alone, _) = planned(&p, device, parts, masked, false);
            assert_eq!(scores, alone, "the gradient changed the scores");
            (scores, dq)
        });
        want.hold(&format!("{parts} parts"), scores, Some(&dq));
    };
    // Ten tiles of keys pass through four stages.
    bits(1, true);
    bits(1, false);
    bits(2, false);
}

/// The raw layer with a plan for this many blocks.
fn planned(p: &Problem, device: &Device, blocks: usize, masked: bool, gradient: bool) -> (Scores, Vec<f32>) {
    let Device::Cuda(gpu) = device else { panic!("a GPU is expected") };
    let [q, k, queue] = p.on(device);
    let (n, d, m) = (q.dims()[0], q.dims()[1], queue.dims()[0]);
    let [of_q, of_k, of_queue] = BF16;
    let layout = Layout { terms: 1, n, d, m, q: of_q, k: of_k, queue: of_queue, tau: p.tau, gradient };
    let plan = Plan::new(&layout, blocks, true);
    assert_eq!((plan.sort, plan.parts), (Sort::Wgmma, blocks));
    // Owners are 32-bit numbers; as such they pass through f32.
    let owners = [&p.rows, &p.keys].map(|numbers| {
        let bits: Vec<f32> = numbers.iter().map(|n| f32::from_bits(*n)).collect();
        tensor(&[bits.len()], &bits).to(device).unwrap()
    });
    let [dq, loss, stats] = [n * d, 1, 2].map(|numbers| Tensor::zeros_on(device, [numbers]).unwrap());
    let at = |x: &Tensor| x.address().unwrap();
    let work = gpu.alloc(layout.workspace_for(&plan)).unwrap();
    let pointers = Pointers {
        q: [at(&q), 0, 0, 0],
        k: [at(&k), 0, 0, 0],
        queue: at(&queue),
        owners: if masked { [at(&owners[0]), at(&owners[1])] } else { [0, 0] },
        dq: [at(&dq), 0, 0, 0],
        loss: [at(&loss), 0, 0, 0],
        stats: [at(&stats), 0, 0, 0],
        workspace: work.ptr(),
    };
    // SAFETY: the memory above lives to the end of the function, and loading waits for the work.
    unsafe { infonce::launch_planned(gpu, &layout, &plan, &pointers).unwrap() };
    let stats = data(&stats);
    let scores = Scores { loss: data(&loss)[0], positive: stats[0], accuracy: stats[1] };
    (scores, data(&dq))
}

/// With the smallest temperature too: an exponential is then as small as exp(-80).
#[test]
pub fn similarities_may_all_be_negative_on_hopper() {
    all_negative(BF16, [66, 64, 70], 0.1, true);
    all_negative(BF16, [66, 128, 130], 0.025, true);
}

/// Terms whose rows together fill a tile: what a warpgroup holds is of several.
#[test]
fn terms_share_a_tile_on_hopper() {
    let all: Vec<Problem> = (0..4)
        .map(|i| {
            let p = Problem::new(30, 48, 400, 0.1, BF16);
            Problem { q: unit(30, 48, 10 + i, DType::BF16), k: unit(30, 48, 20 + i, DType::BF16), ..p }
        })
        .collect();
    on_hopper(|device| {
        let placed: Vec<[Tensor; 3]> = all.iter().map(|p| p.on(device)).collect();
        let terms: Vec<Term<'_>> = placed.iter().map(|[q, k, _]| Term { q, k }).collect();
        let swept = infonce::sweep(&terms, &placed[0][2], Owners::Host(all[0].mask()), 0.1, true).unwrap();
        let mut gradients = Vec::new();
        for (p, out) in all.iter().zip(&swept) {
            let dq = data(out.dq.as_ref().unwrap());
            p.want(true, DType::BF16).hold("shared", out.scores().unwrap(), Some(&dq));
            gradients.extend(dq);
        }
        gradients
    });
    took_part(1);
}

/// A batch that one warpgroup would hold is bound by reading the queue: the portable kernel does.
#[test]
fn few_rows_are_swept_by_the_portable_kernel() {
    let sim = Sim::hopper(Order::Forward, Sums::Nearest);
    let [q, k, queue] = Problem::new(64, 64, 100, 0.1, BF16).on(&sim.device());
    infonce::forward(&q, &k, &queue, 0.1).unwrap();
    assert!(sim.machine.totals().contains_key("infonce_sweep_r64_d64_bf16"));
}
