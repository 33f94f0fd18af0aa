//! MCL's step recorded as a graph and repeated: the same bits as step by step, with one differentiation of the network behind the target and with two, when a loss comes in during
//! the run, and after the run was restored.

use crate::support::sim::Sim;
use crate::support::whole_run::VIDEOS;
use crate::training::mcl::recipe;
use ptxsim::Order;
use rand::RngExt;
use tubelet::ops::sgd::Sgd;
use tubelet::rng::{Purpose, stream};
use tubelet::ssl::alignment::{Alignment, Form};
use tubelet::ssl::mcl::Mcl;
use tubelet::train::checkpoint::State;
use tubelet::train::focus::Quad;
use tubelet::train::mcl::{MclRun, Recipe};
use tubelet::train::pretrain::{At, Method};
use tubelet::train::views::Part;

/// A video's clips in a step.
pub fn sample(video: u32, step: u64) -> Quad {
    let mut rng = stream(step, 0, u64::from(video), Purpose::Test);
    let mut part = |dims: [usize; 4], low: f32| {
        Part::new(dims, (0..dims.iter().product()).map(|_| rng.random_range(low..1.0)).collect())
    };
    let rgb = [4, 16, 16, 3];
    let clips = [(); 4].map(|()| part(rgb, -1.0));
    let [query, keys @ ..] = clips;
    Quad {
        video,
        query,
        keys,
        target: Some(part([2, 4, 4, 1], 0.0)),
        order: (u64::from(video) + step).is_multiple_of(2),
    }
}

/// The losses of eight steps, four an epoch, restored before the seventh. The order loss begins with the second epoch.
fn losses(recipe: &Recipe, recorded: bool) -> Vec<u32> {
    let sim = Sim::new(Order::Forward);
    let run = MclRun::new(recipe, VIDEOS, 1, &sim.device()).unwrap();
    let mut run = if recorded { run.recorded() } else { run };
    let mut losses = Vec::new();
    for step in 0..8 {
        if step == 6 {
            let mut state = State::default();
            run.save(&mut state);
            run.restore(&state).unwrap();
        }
        let batch = (0..4).map(|i| sample((i + step as u32) % VIDEOS as u32, step)).collect();
        let report = run
            .step(batch, At { seed: 1, epoch: step / 4, step, epochs: recipe.training.epochs }, 0.01, &Sgd::default())
            .unwrap();
        assert_eq!(report.part("loss_order").is_some(), step >= 4, "{report:?}");
        losses.push(report.loss.to_bits());
    }
    losses
}

#[test]
fn a_recorded_run_is_the_run() {
    let small = recipe();
    for (form, detached) in [(Form::WeightGradient, false), (Form::Magnitude, true)] {
        let alignment = Alignment { form, detached, weight: 2.0, ..small.method.alignment.clone() };
        let recipe = Recipe { method: Mcl { alignment, ..small.method.clone() }, ..small.clone() };
        assert_eq!(losses(&recipe, true), losses(&recipe, false), "{form}");
    }
}
