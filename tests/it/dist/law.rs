//! A step of W ranks has the bits of a step of one process that accumulates W micro-batches. Here the ranks are threads.

use crate::support::numbers::bits;
use crate::training::{maclr, mcl};
use std::sync::Arc;
use tubelet::dist::sum::{BUCKET, Wire};
use tubelet::dist::{Collective, threads};
use tubelet::nn::{Params, Precision};
use tubelet::ops::sgd::Sgd;
use tubelet::rng::{Purpose, stream};
use tubelet::ssl::alignment::Alignment;
use tubelet::ssl::maclr::{CrossPositive, Maclr};
use tubelet::ssl::mcl::Mcl;
use tubelet::ssl::pathway::{Pathway, permutation};
use tubelet::ssl::{Division, maclr as of_maclr, mcl as of_mcl};
use tubelet::tensor::{DType, Device, Tensor};

pub const STEPS: u64 = 3;
pub const VIDEOS: usize = 24;
/// Videos of a step: micro-batches of four, three or two parts each.
pub const BATCH: usize = 12;

/// What a run leaves: reports, networks and queues, as bits.
pub type Left = Vec<(String, Vec<u32>)>;

/// Everything that `W` ranks and one process must agree in. Running statistics and the count of batches are those of the first
/// rank, which alone writes them.
fn left<E>(name: &str, pathway: &Pathway<E>, first: bool) -> Left {
    let of = |params: &Params, what: &str| -> Left {
        let kept = params.iter().filter(|(_, p)| first || p.role.trains());
        kept.map(|(_, p)| (format!("{name} {what} {}", p.name), bits(&p.value))).collect()
    };
    let mut all = of(pathway.query(), "query");
    all.extend(of(pathway.key(), "key"));
    for (what, params) in pathway.followers() {
        all.extend(of(params, what));
    }
    all.push((format!("{name} queue"), bits(pathway.queue().keys())));
    all.push((format!("{name} owners"), pathway.queue().owners().to_vec()));
    if first {
        all.push((format!("{name} batches"), vec![pathway.query().batches as u32, pathway.key().batches as u32]));
    }
    all
}

/// What `run` returns as each of `size` ranks.
pub fn on_ranks<T: Send>(size: usize, run: impl Fn(Arc<dyn Collective>) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let run = &run;
        let running: Vec<_> = threads::ranks(size)
            .into_iter()
            // A rank that waits for others keeps a thread of its pool, so each has a pool of its own, as processes have.
            .map(|rank| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
                scope.spawn(move || pool.install(|| run(Arc::new(rank) as Arc<dyn Collective>)))
            })
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Some rows of clips.
fn rows(x: &Tensor, list: impl Iterator<Item = usize>) -> Tensor {
    x.rows(&list.collect::<Vec<_>>()).unwrap()
}

fn rng(step: u64) -> impl rand::Rng + Clone {
    stream(1, 0, step, Purpose::KeyShuffle)
}

fn assert_same(got: &Left, want: &Left, what: &str) {
    assert!(!got.is_empty());
    for (name, bits) in got {
        let (_, want) = want.iter().find(|(other, _)| other == name).unwrap();
        assert!(bits == want, "{what}: {name}");
    }
}

pub fn maclr_run(method: &Maclr, division: &Division) -> Left {
    let recipe = tubelet::train::maclr::Recipe { method: method.clone(), ..maclr::recipe() };
    let mut p = recipe.pathways(VIDEOS, 1, &Device::Cpu).unwrap();
    let (rank, size) = (division.ranks().rank(), division.ranks().size());
    let n = BATCH / size;
    let own = || rank * n..(rank + 1) * n;
    let mut all = Vec::new();
    for step in 0..STEPS {
        let mut whole = maclr::views(BATCH);
        if method.alignment.is_some() {
            let target = Tensor::from_f32([BATCH, 2, 4, 4], &vec![0.5; BATCH * 32]).unwrap();
            whole.targets = Some([target.clone(), target]);
        }
        whole.owners = (0..BATCH as u32).map(|i| (i + 12 * step as u32) % VIDEOS as u32).collect();
        let views = if size == 1 {
            whole
        } else {
            let pair = |x: &[Tensor; 2]| [rows(&x[0], own()), rows(&x[1], own())];
            let motion = whole.motion.as_ref().unwrap();
            // The clips that this rank's key networks see, as a loader finds them: by the permutations alone.
            let mut draws = rng(step);
            let mut key_clips = Vec::new();
            for a in if method.symmetric { vec![0, 1] } else { vec![0] } {
                let of_motion = match method.cross_positive {
                    CrossPositive::OtherClip => &motion[1 - a],
                    _ => &motion[a],
                };
                for clips in [&whole.rgb[1 - a], of_motion] {
                    let there = permutation(BATCH, &mut draws);
                    key_clips.push(rows(clips, there[own()].iter().map(|&i| i as usize)));
                }
            }
            of_maclr::Views {
                rgb: pair(&whole.rgb),
                motion: Some(pair(motion)),
                targets: whole.targets.as_ref().map(pair),
                owners: whole.owners.clone(),
                key_clips,
            }
        };
        let report = method.step_of(&mut p, &views, &mut rng(step), 0.02, &Sgd::default(), division).unwrap();
        let values = std::iter::once(report.loss).chain(report.parts.iter().map(|(_, v)| *v));
        all.push((format!("report {step}"), values.map(f32::to_bits).collect()));
    }
    all.extend(left("visual", &p.visual, rank == 0));
    all.extend(left("motion", p.motion.as_ref().unwrap(), rank == 0));
    all
}

#[test]
fn steps_of_maclr_on_ranks_are_those_of_one_process() {
    let plain = maclr::method();
    let methods = [
        plain.clone(),
        Maclr { precision: Precision::from(DType::BF16), cross_positive: CrossPositive::SameClip, ..plain.clone() },
        Maclr { symmetric: true, in_batch: false, groups: 6, ..plain.clone() },
        Maclr { alignment: Some(Alignment::from_scratch("layer2.0")), ..plain.clone() },
        Maclr { w_steps: 0.5, cross_positive: CrossPositive::SameClip, ..plain },
    ];
    for (i, method) in methods.iter().enumerate() {
        let wire = if i == 2 { Wire::Bf16 } else { Wire::F32 };
        for size in [2, 3] {
            let alone = Division::new(Arc::new(tubelet::dist::Alone), size, wire).unwrap();
            let want = maclr_run(method, &alone);
            // Gradients travel one by one, in many buckets, or all at once.
            let bucket = [1, 1000, BUCKET][i % 3];
            let of_rank = |ranks| maclr_run(method, &Division::new(ranks, 1, wire).unwrap().with_bucket(bucket));
            for (rank, got) in on_ranks(size, of_rank).iter().enumerate() {
                assert_same(got, &want, &format!("method {i}, rank {rank} of {size}"));
            }
            // Micro-batches change what is computed: statistics are those of fewer clips.
            assert_ne!(maclr_run(method, &Division::default()), want);
        }
    }
}

pub fn mcl_run(method: &Mcl, division: &Division) -> Left {
    let recipe = tubelet::train::mcl::Recipe { method: method.clone(), ..mcl::recipe() };
    let mut p = recipe.network(VIDEOS, 1, &Device::Cpu).unwrap().0;
    let (rank, size) = (division.ranks().rank(), division.ranks().size());
    let n = BATCH / size;
    let own = || rank * n..(rank + 1) * n;
    let mut all = Vec::new();
    for step in 0..STEPS {
        let whole = mcl::views(BATCH);
        let views = if size == 1 {
            whole
        } else {
            let mut draws = rng(step);
            let keys = whole.keys.each_ref().map(|clips| {
                let there = permutation(BATCH, &mut draws);
                rows(clips, there[own()].iter().map(|&i| i as usize))
            });
            of_mcl::Views {
                query: rows(&whole.query, own()),
                keys,
                target: whole.target.as_ref().map(|t| rows(t, own())),
                order: rows(&whole.order, own()),
                owners: whole.owners.clone(),
                permuted: true,
            }
        };
        let report = method.step_of(&mut p, &views, &mut rng(step), mcl::RATES, &Sgd::default(), division).unwrap();
        let values = std::iter::once(report.loss).chain(report.parts.iter().map(|(_, v)| *v));
        all.push((format!("report {step}"), values.map(f32::to_bits).collect()));
    }
    all.extend(left("mcl", &p, rank == 0));
    all
}

#[test]
fn steps_of_mcl_on_ranks_are_those_of_one_process() {
    for precision in [DType::F32, DType::BF16] {
        let method = Mcl { precision: precision.into(), ..mcl::recipe().method };
        for size in [2, 3] {
            let alone = Division::new(Arc::new(tubelet::dist::Alone), size, Wire::F32).unwrap();
            let want = mcl_run(&method, &alone);
            let of_rank = |ranks| mcl_run(&method, &Division::new(ranks, 1, Wire::F32).unwrap().with_bucket(1000));
            for (rank, got) in on_ranks(size, of_rank).iter().enumerate() {
                assert_same(got, &want, &format!("{}, rank {rank} of {size}", precision.name()));
            }
        }
    }
}

#[test]
fn what_cannot_be_divided_is_refused() {
    let method = maclr::method();
    let divided = |accumulate: usize, groups: usize| {
        let division = Division::new(Arc::new(tubelet::dist::Alone), accumulate, Wire::F32).unwrap();
        let method = Maclr { groups, ..method.clone() };
        let recipe = tubelet::train::maclr::Recipe { method: method.clone(), ..maclr::recipe() };
        let mut p = recipe.pathways(VIDEOS, 1, &Device::Cpu).unwrap();
        let before = left("visual", &p.visual, true);
        let refused = method.step_of(&mut p, &maclr::views(4), &mut rng(0), 0.02, &Sgd::default(), &division);
        let e = refused.unwrap_err().to_string();
        assert_eq!(left("visual", &p.visual, true), before, "nothing has changed");
        e
    };
    assert!(divided(3, 1).contains("accumulate = 3"), "{}", divided(3, 1));
    assert!(divided(2, 3).contains("--bn-groups = 3"), "{}", divided(2, 3));
    assert!(Division::new(Arc::new(tubelet::dist::Alone), 0, Wire::F32).is_err());
}
