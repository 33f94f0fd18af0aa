//! Ranks that are connected by TCP, here threads of one process with sockets of their own.

use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tubelet::dist::threads;
use tubelet::dist::{Collective, Patience, Tcp, World, sum};
use tubelet::error::ErrorKind;
use tubelet::{DType, Error, Tensor};

/// Short enough for a test, long enough for a machine that gives a thread no turn.
const PATIENCE: Patience =
    Patience { starting: Duration::from_secs(20), step: Duration::from_secs(20), silence: Duration::from_secs(8) };

/// A port that is free now, and that no other test is given. It is below those that the system gives to connections, so that
/// none takes it before its rank 0 listens.
fn port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id() % 20_000 * 97;
    loop {
        let port = 10_000 + ((start + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000) as u16;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

fn world(rank: usize, size: usize, port: u16) -> World {
    World { rank, size, meeting: Some(("127.0.0.1".into(), port)), key: "test".into(), ..World::alone() }
}

/// What each of these processes gets of `run`, if they start at once.
fn all<T: Send>(worlds: Vec<World>, patience: Patience, run: impl Fn(Tcp) -> T + Sync) -> Vec<Result<T, Error>> {
    std::thread::scope(|scope| {
        let run = &run;
        let one = move |world: World| Tcp::connect(&world, patience, &|_| Ok(())).map(run);
        let running: Vec<_> = worlds.into_iter().map(|world| scope.spawn(move || one(world))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn ranks(size: usize) -> Vec<World> {
    let port = port();
    (0..size).map(|rank| world(rank, size, port)).collect()
}

fn numbers(rank: usize, n: usize, dtype: DType) -> Tensor {
    let values: Vec<f32> = (0..n).map(|i| (rank * 1000 + i) as f32 * 0.37).collect();
    Tensor::from_f32([n], &values).unwrap().cast(dtype).unwrap()
}

#[test]
fn what_is_exchanged_arrives_in_the_order_of_ranks() {
    for size in [2, 3, 5] {
        let done = all(ranks(size), PATIENCE, |tcp| {
            let rank = tcp.rank();
            assert_eq!((tcp.size(), tcp.name()), (size, "tcp"));
            // Notes of different lengths, an empty one among them.
            let notes = tcp.share(&vec![rank as u8; rank]).unwrap();
            assert_eq!(notes, (0..size).map(|from| vec![from as u8; from]).collect::<Vec<_>>());
            assert_eq!(tcp.sent() as usize, rank * (size - 1));
            for (n, dtype) in [(0, DType::F32), (7, DType::BF16), (300_000, DType::F32)] {
                let all = tcp.all_gather(&numbers(rank, n, dtype)).unwrap();
                assert_eq!((all.dims(), all.dtype()), (&[size, n][..], dtype));
                let want: Vec<f32> =
                    (0..size).flat_map(|from| numbers(from, n, dtype).load().unwrap().into_owned()).collect();
                assert_eq!(all.load().unwrap()[..], want);
                // Row `to` of rank `from` begins with from · 1000 + to · n.
                let rows = numbers(rank, size * n, dtype).reshape([size, n]).unwrap();
                let got = tcp.all_to_all(&rows).unwrap();
                let want: Vec<f32> = (0..size)
                    .flat_map(|from| numbers(from, size * n, dtype).load().unwrap()[rank * n..(rank + 1) * n].to_vec())
                    .collect();
                assert_eq!(got.load().unwrap()[..], want);
            }
            tcp.finish();
        });
        done.into_iter().for_each(|one| one.unwrap());
    }
}

#[test]
fn sums_have_the_bits_of_those_of_threads() {
    let of = |ranks: &dyn Collective| {
        let sums = sum::over_ranks(ranks, &[numbers(ranks.rank(), 1001, DType::F32)], sum::Wire::F32).unwrap();
        sums[0].load().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>()
    };
    let by_tcp = all(ranks(3), PATIENCE, |tcp| {
        let sums = of(&tcp);
        tcp.finish();
        sums
    });
    let by_threads: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = threads::ranks(3).into_iter().map(|rank| scope.spawn(move || of(&rank))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (a, b) in by_tcp.into_iter().zip(by_threads) {
        assert_eq!(a.unwrap(), b);
    }
}

/// A rank that is there and ends, before another one comes, ends those that wait.
#[test]
fn a_rank_that_ends_before_all_are_connected_ends_the_others_soon() {
    for bad in [0, 1] {
        let (worlds, began) = (ranks(4), Instant::now());
        let stopped = || Error::from(ErrorKind::Peer { what: "asked to stop".into() });
        let said: Vec<String> = std::thread::scope(|scope| {
            let one = |rank: usize| {
                let world = &worlds[rank];
                let waiting = move |_: &str| {
                    // When the others wait as well.
                    let ends = rank == bad && began.elapsed() > Duration::from_secs(1);
                    if ends { Err(stopped()) } else { Ok(()) }
                };
                scope.spawn(move || Tcp::connect(world, PATIENCE, &waiting).err().unwrap().to_string())
            };
            let running = [0, 1, 2].map(one); // rank 3 never comes
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(began.elapsed() < PATIENCE.starting, "nobody waits until time is up");
        for (rank, said) in said.iter().enumerate() {
            // What ends rank 0, the others are told.
            let gone = format!("rank {bad} has ended before all ranks were connected");
            let want = if rank == bad || bad == 0 { stopped().to_string() } else { gone };
            assert_eq!(*said, want, "rank {rank}, when rank {bad} ends");
        }
    }
}

/// What the others say when rank `bad` of three does `ends`, while they wait for it.
fn of_others(bad: usize, ends: impl Fn(Tcp) + Sync) -> Vec<String> {
    let began = Instant::now();
    let said = all(ranks(3), PATIENCE, |tcp| {
        let there = tcp.share(b"all are there");
        if tcp.rank() == bad {
            there.unwrap();
            ends(tcp);
            return None;
        }
        // The end of a rank that was fast is known before the notes of a slow one are read.
        let e = there.and_then(|_| tcp.all_gather(&numbers(0, 100, DType::F32))).unwrap_err().to_string();
        tcp.fail(&e);
        Some(e)
    });
    assert!(began.elapsed() < PATIENCE.step, "nobody waits for a rank that is known to have ended");
    said.into_iter().filter_map(|one| one.unwrap()).collect()
}

#[test]
fn a_rank_that_fails_is_named_with_its_reason() {
    for bad in 0..3 {
        let said = of_others(bad, |tcp| tcp.fail("the disk is full"));
        assert_eq!(said, vec![format!("rank {bad} ended with an error: the disk is full"); 2]);
    }
}

#[test]
fn a_rank_that_is_gone_is_named() {
    for bad in 0..3 {
        let said = of_others(bad, drop);
        assert_eq!(said, vec![format!("rank {bad} ended with an error: it left before the others"); 2]);
    }
}

#[test]
fn a_rank_that_hangs_is_named_after_a_time() {
    let patience = Patience { step: Duration::from_secs(2), ..PATIENCE };
    let said = all(ranks(2), patience, |tcp| {
        if tcp.rank() == 1 {
            std::thread::sleep(Duration::from_secs(5));
            return None;
        }
        Some(tcp.share(b"").unwrap_err().to_string())
    });
    let said = said[0].as_ref().unwrap().as_ref().unwrap();
    assert!(said.starts_with("rank 1 has sent nothing for 2 seconds"), "{said}");
}

#[test]
fn ranks_that_are_out_of_step_notice_it() {
    let said = all(ranks(2), PATIENCE, |tcp| {
        let done =
            if tcp.rank() == 0 { tcp.share(b"").map(drop) } else { tcp.all_gather(&Tensor::zeros([0])).map(drop) };
        done.unwrap_err().to_string()
    });
    assert!(said.iter().flatten().any(|e| e.contains("is out of step")), "{said:?}");
    // Or the same call with other sizes.
    let said = all(ranks(2), PATIENCE, |tcp| tcp.all_gather(&Tensor::zeros([1 + tcp.rank()])).unwrap_err().to_string());
    assert!(said.iter().flatten().any(|e| e.contains("bytes where rank")), "{said:?}");
}

#[test]
fn who_does_not_belong_is_refused_in_a_sentence() {
    let of = |worlds: Vec<World>, starting: u64| -> Vec<String> {
        let patience = Patience { starting: Duration::from_secs(starting), ..PATIENCE };
        all(worlds, patience, |_| ()).into_iter().filter_map(Result::err).map(|e| e.to_string()).collect()
    };
    let at = port();
    let said = of(vec![world(0, 3, at), world(1, 3, at), world(1, 3, at)], 20);
    assert!(said.len() == 3 && said.iter().all(|e| e.contains("say that they are rank 1 of 3")), "{said:?}");
    let at = port();
    let said = of(vec![world(0, 2, at), world(1, 3, at)], 20);
    assert!(said.len() == 2 && said.iter().all(|e| e.contains("as one of 2 processes, and rank 1")), "{said:?}");
    let at = port();
    let said = of(vec![world(0, 3, at), world(1, 3, at)], 2);
    assert!(
        said.len() == 2 && said.iter().any(|e| e.contains("2 of 3 ranks are there, and rank 2 is missing")),
        "{said:?}"
    );
    let said = of(vec![world(1, 2, port())], 1);
    assert!(said[0].contains("rank 1 has not found rank 0 at 127.0.0.1:"), "{said:?}");
    let nowhere = World { meeting: None, ..world(0, 2, 0) };
    assert!(of(vec![nowhere], 1)[0].contains("set MASTER_ADDR"));
}

#[test]
fn others_that_use_the_port_are_not_taken_for_ranks() {
    let at = port();
    let stray = std::thread::spawn(move || {
        // A program that tries ports, and a rank of an earlier start of the run.
        let until = Instant::now() + Duration::from_secs(10);
        let mut knocked = loop {
            match TcpStream::connect(("127.0.0.1", at)) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
                Err(e) => panic!("{e}"),
            }
        };
        std::io::Write::write_all(&mut knocked, b"GET / HTTP/1.1\r\nHost: tubelet\r\n\r\n").unwrap();
        let old = World { key: "before the restart".into(), ..world(1, 2, at) };
        let patience = Patience { starting: Duration::from_secs(2), ..PATIENCE };
        let e = Tcp::connect(&old, patience, &|_| Ok(())).err().unwrap().to_string();
        assert!(e.contains("has not found rank 0"), "{e}");
    });
    let late = World { ..world(1, 2, at) };
    let done = std::thread::scope(|scope| {
        let first = scope.spawn(|| Tcp::connect(&world(0, 2, at), PATIENCE, &|_| Ok(())).unwrap().share(b"0").unwrap());
        std::thread::sleep(Duration::from_secs(1));
        let second = scope.spawn(|| Tcp::connect(&late, PATIENCE, &|_| Ok(())).unwrap().share(b"1").unwrap());
        [first.join().unwrap(), second.join().unwrap()]
    });
    assert_eq!(done, [[b"0".to_vec(), b"1".to_vec()], [b"0".to_vec(), b"1".to_vec()]]);
    stray.join().unwrap();
}
