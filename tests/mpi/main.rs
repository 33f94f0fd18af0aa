//! A rank of MPI, for `cargo xtask mpi`, which starts it under mpirun: what ranks exchange is compared with ranks that are
//! threads, and ranks end in every way that they can.

use std::process::ExitCode;
use std::time::Duration;
use tubelet::dist::{Collective, Patience, World, join, sum, threads};
use tubelet::error::Result;
use tubelet::tensor::{DType, Tensor};

fn main() -> ExitCode {
    let what = std::env::args().nth(1).unwrap_or_default();
    match run(&what) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(what: &str) -> Result<()> {
    let world = World::from_env()?;
    if world.size == 1 {
        return Ok(()); // no launcher: this is `cargo test` with the feature `mpi`
    }
    let patience = Patience { step: Duration::from_secs(if what == "hangs" { 2 } else { 60 }), ..Patience::default() };
    let ranks = join(&world, patience, &|_| Ok(()))?;
    assert_eq!((ranks.rank(), ranks.size(), ranks.name()), (world.rank, world.size, "mpi"));
    ranks.share(b"here")?;
    let done = if ranks.rank() == 1 { leave(&*ranks, what) } else { Ok(()) };
    let done = done.and_then(|()| match what {
        // Calls come from any thread, one at a time.
        "law" => std::thread::scope(|s| s.spawn(|| law(&*ranks)).join().expect("it does not panic")),
        // A rank that computes meanwhile would not be told: it waits in a call.
        _ => ranks.all_gather(&Tensor::zeros([5])).map(drop),
    });
    match &done {
        Ok(()) => ranks.finish(),
        Err(e) => ranks.fail(&e.to_string()),
    }
    done
}

/// Rank 1 ends in the way that is asked for.
fn leave(ranks: &dyn Collective, how: &str) -> Result<()> {
    match how {
        "fails" => Tensor::from_f32([2], &[1.0]).map(drop), // an error with a sentence
        "panics" => panic!("on purpose"),
        "exits" => std::process::exit(3),
        "killed" => {
            // SAFETY: sends a signal to this process.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            Ok(())
        }
        "out-of-step" => ranks.share(b"a note").map(drop),
        "other-size" => ranks.all_gather(&Tensor::zeros([6])).map(drop),
        "finishes" => {
            ranks.finish();
            Ok(())
        }
        "hangs" => {
            std::thread::sleep(Duration::from_secs(3600));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What MPI moves is what threads move, bit for bit.
fn law(ranks: &dyn Collective) -> Result<()> {
    let size = ranks.size();
    let all: Vec<Result<Exchanged>> = std::thread::scope(|scope| {
        let running: Vec<_> =
            threads::ranks(size).into_iter().map(|rank| scope.spawn(move || exchange(&rank))).collect();
        running.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    });
    let want = all.into_iter().nth(ranks.rank()).expect("as many threads as ranks")?;
    let got = exchange(ranks)?;
    assert_eq!(got.notes, want.notes);
    assert_eq!(got.tensors.len(), want.tensors.len());
    for (i, (got, want)) in got.tensors.iter().zip(&want.tensors).enumerate() {
        assert_eq!((got.shape(), got.dtype()), (want.shape(), want.dtype()), "tensor {i}");
        let bits = |t: &Tensor| t.load().map(|all| all.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
        assert!(bits(got)? == bits(want)?, "tensor {i} has other bits");
    }
    assert_eq!(got.sent, want.sent);
    Ok(())
}

struct Exchanged {
    notes: Vec<Vec<Vec<u8>>>,
    tensors: Vec<Tensor>,
    sent: u64,
}

fn exchange(ranks: &dyn Collective) -> Result<Exchanged> {
    let (rank, size, before) = (ranks.rank(), ranks.size(), ranks.sent());
    // Notes of different lengths, an empty one among them, and a long one.
    let notes = [rank * 3, 0, if rank == 0 { 1 << 20 } else { 1 }];
    let notes = notes.map(|length| ranks.share(&vec![rank as u8 + 1; length])).into_iter().collect::<Result<_>>()?;
    // Numbers whose sums depend on the order.
    let tensor = |dims: &[usize]| {
        let len = dims.iter().product();
        let number = |i: usize| ((i * 7919 + rank * 104_729) % 1009) as f32 * 1.1e3f32.powi((i + rank) as i32 % 5 - 2);
        Tensor::from_f32(tubelet::shape::Shape::new(dims), &(0..len).map(number).collect::<Vec<_>>())
    };
    let mut tensors = Vec::new();
    // A row of 1.2 million numbers is longer than one message.
    for row in [0, 1, 257, 1_200_000] {
        let rows = tensor(&[size, row])?;
        tensors.push(ranks.all_to_all(&rows)?);
        tensors.push(ranks.all_to_all(&rows.cast(DType::BF16)?)?);
        let part = tensor(&[row])?;
        tensors.push(ranks.all_gather(&part)?);
        tensors.push(ranks.all_gather(&part.cast(DType::BF16)?)?);
    }
    let gradients = [tensor(&[3, 5])?, tensor(&[])?, tensor(&[0])?, tensor(&[100_003])?];
    for wire in [sum::Wire::F32, sum::Wire::Bf16] {
        tensors.extend(sum::over_ranks(ranks, &gradients, wire)?);
    }
    Ok(Exchanged { notes, tensors, sent: ranks.sent() - before })
}
