//! How the ranks find each other: rank 0 listens where all know, the others tell it who they are and where they listen,
//! and when all are there, it tells everybody.

use super::{Patience, lost};
use crate::dist::World;
use crate::error::Result;
use socket2::{SockRef, TcpKeepalive};
use std::io::{ErrorKind as Io, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// The first bytes of a connection, and the version of what follows.
const MAGIC: &[u8; 8] = b"tubelet2";

/// What rank 0 answers: that it waits for others, and then the list of all ranks; or that it is of another run.
const WAIT: u8 = 11;
const WELCOME: u8 = 12;
const OTHER_RUN: u8 = 13;

/// A sentence follows: which rank ended and why, or why ranks do not meet.
pub(super) const ENDED: u8 = 2;

/// The most bytes of a text in a message.
const TEXT: usize = 1 << 12;

/// Time between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(50);

/// Time between two looks at connections and at whether to go on.
const GLANCE: Duration = Duration::from_millis(5);

/// Connections that are watched, with the rank at their other end.
type Watched = Vec<(usize, TcpStream)>;

/// Is told again and again for whom this rank waits; an error ends the wait.
pub(super) type Waiting<'a> = dyn Fn(&str) -> Result<()> + 'a;

pub(super) struct Connected {
    /// Connections for data: to each rank, `None` at this one's place.
    pub peers: Vec<Option<TcpStream>>,
    /// Of rank 0 to all others, of these to rank 0.
    pub watched: Watched,
}

/// Connects all ranks of `world` with each other.
pub(super) fn meet(world: &World, patience: Patience, waiting: &Waiting) -> Result<Connected> {
    let Some((host, port)) = &world.meeting else {
        return Err(lost(format!(
            "{} does not say where rank 0 is: set MASTER_ADDR to its host, and MASTER_PORT to a free port there",
            world.launcher
        )));
    };
    let (until, at) = (Instant::now() + patience.starting, format!("{host}:{port}"));
    let own =
        TcpListener::bind(("0.0.0.0", 0)).map_err(|e| lost(format!("this rank cannot listen for others: {e}")))?;
    let own_port = own.local_addr().map_err(|e| lost(format!("this rank cannot listen for others: {e}")))?.port();
    let (watched, places) = if world.rank == 0 {
        gather(world, *port, own_port, until, patience, waiting)?
    } else {
        let (stream, places) = report(world, (host, *port), own_port, until, patience, waiting)?;
        (vec![(0, stream)], places)
    };
    let peers = connect(world, &own, &places, &watched, until, patience, waiting);
    let peers = peers.inspect_err(|e| refuse_all(watched.iter().filter(|_| world.rank == 0), &e.to_string()))?;
    let prepared = peers.iter().flatten().try_for_each(|stream| stream.set_read_timeout(Some(patience.step)));
    prepared.map_err(|e| lost(format!("the connections that meet at {at} cannot be used: {e}")))?;
    Ok(Connected { peers, watched })
}

/// The connections for data: to each rank below this one, from each above. A rank that ends meanwhile is noticed by rank 0, which
/// tells the others.
fn connect(
    world: &World,
    own: &TcpListener,
    places: &[SocketAddr],
    watched: &Watched,
    until: Instant,
    patience: Patience,
    waiting: &Waiting,
) -> Result<Vec<Option<TcpStream>>> {
    let go_on = |peer: usize| {
        waiting(&format!("rank {peer}"))?;
        watched.iter().try_for_each(|(rank, stream)| alive(*rank, stream))
    };
    let mut peers: Vec<Option<TcpStream>> = (0..world.size).map(|_| None).collect();
    for (peer, place) in places.iter().enumerate().take(world.rank) {
        let stream = loop {
            let left = until.saturating_duration_since(Instant::now()).clamp(PAUSE, Duration::from_secs(5));
            let attempt = TcpStream::connect_timeout(place, left).and_then(|mut stream| {
                prepare(&stream, patience)?;
                Hello { rank: world.rank, size: world.size, port: 0, key: &world.key }.write(&mut stream)?;
                Ok(stream)
            });
            match attempt {
                Ok(stream) => break stream,
                Err(e) if Instant::now() >= until => {
                    return Err(lost(format!("rank {} cannot reach rank {peer} at {place}: {e}", world.rank)));
                }
                Err(_) => go_on(peer)?,
            }
            std::thread::sleep(PAUSE);
        };
        peers[peer] = Some(stream);
    }
    while let Some(missing) = (world.rank + 1..world.size).find(|&peer| peers[peer].is_none()) {
        let timed_out = || lost(format!("rank {missing} has not connected to rank {} in time", world.rank));
        let (mut stream, _) = accept(own, until, || go_on(missing))?.ok_or_else(timed_out)?;
        let Ok((rank, size, _, key)) = prepare(&stream, patience).and_then(|()| Hello::read(&mut stream)) else {
            continue;
        };
        // Somebody else who tries ports, or a rank of another run.
        if key != world.key || size != world.size || rank <= world.rank || rank >= world.size {
            continue;
        }
        peers[rank] = Some(stream);
    }
    Ok(peers)
}

/// Rank 0: waits for all others, and tells them where everybody listens.
fn gather(
    world: &World,
    port: u16,
    own_port: u16,
    until: Instant,
    patience: Patience,
    waiting: &Waiting,
) -> Result<(Watched, Vec<SocketAddr>)> {
    let taken = |e| lost(format!("rank 0 cannot listen on port {port}: {e}; set MASTER_PORT to a free one"));
    // The agent of an earlier start may hold the port a moment longer.
    let listener =
        patient(until.min(Instant::now() + Duration::from_secs(10)), || TcpListener::bind(("0.0.0.0", port)));
    let listener = listener.map_err(taken)?;
    let mut there: Watched = Vec::new();
    let mut places = vec![SocketAddr::new(IpAddr::from([0, 0, 0, 0]), own_port); world.size]; // its own is where others found it
    let gathered = gather_all(world, &listener, (&mut there, &mut places), until, patience, waiting);
    gathered.inspect_err(|e| refuse_all(there.iter(), &e.to_string()))?;
    there.sort_by_key(|(rank, _)| *rank);
    let mut list = vec![WELCOME];
    let text: Vec<String> = places.iter().map(SocketAddr::to_string).collect();
    put(&mut list, text.join(" ").as_bytes());
    for (rank, stream) in &there {
        let mut stream: &TcpStream = stream;
        let sent = stream.write_all(&list).map_err(|_| early(*rank));
        sent.inspect_err(|e| refuse_all(there.iter(), &e.to_string()))?;
    }
    Ok((there, places))
}

/// Accepts all others: who is there, and where they listen.
fn gather_all(
    world: &World,
    listener: &TcpListener,
    (there, places): (&mut Watched, &mut [SocketAddr]),
    until: Instant,
    patience: Patience,
    waiting: &Waiting,
) -> Result<()> {
    while there.len() + 1 < world.size {
        let mut missing = (1..world.size).filter(|rank| there.iter().all(|(other, _)| other != rank));
        let first = missing.next().unwrap_or_default();
        let more = missing.count();
        let whom = if more == 0 { format!("rank {first}") } else { format!("rank {first} and {more} more") };
        let go_on = || {
            waiting(&whom)?;
            there.iter().try_for_each(|(rank, stream)| alive(*rank, stream))
        };
        let Some((mut stream, from)) = accept(listener, until, go_on)? else {
            let (count, seconds) = (there.len() + 1, patience.starting.as_secs());
            return Err(lost(format!(
                "after {seconds} seconds {count} of {} ranks are there, and rank {first} is missing",
                world.size
            )));
        };
        let Ok((rank, size, port, key)) = prepare(&stream, patience).and_then(|()| Hello::read(&mut stream)) else {
            continue;
        };
        if key != world.key {
            let _ = stream.write_all(&[OTHER_RUN]); // it tries again until its own rank 0 listens
            continue;
        }
        let place = SocketAddr::new(from.ip(), port);
        let why = if size != world.size {
            Some(format!(
                "rank 0 was started as one of {} processes, and rank {rank}, at {from}, as one of {size}",
                world.size
            ))
        } else if rank == 0 || rank >= size {
            Some(format!("a second process, at {from}, says that it is rank {rank} of {size}"))
        } else if there.iter().any(|(other, _)| *other == rank) {
            let other = places[rank];
            Some(format!("two processes, at {other} and {place}, say that they are rank {rank} of {size}"))
        } else {
            None
        };
        // What it is told, it is told like the others.
        let _ = stream.write_all(&[WAIT]);
        there.push((rank, stream));
        if let Some(why) = why {
            return Err(lost(why));
        }
        places[rank] = place;
    }
    Ok(())
}

/// Another rank: tells rank 0 who it is, and learns where everybody listens.
fn report(
    world: &World,
    (host, port): (&str, u16),
    own_port: u16,
    until: Instant,
    patience: Patience,
    waiting: &Waiting,
) -> Result<(TcpStream, Vec<SocketAddr>)> {
    let mut last = "it does not answer".to_owned();
    while Instant::now() < until {
        let found =
            (host, port).to_socket_addrs().map_err(|e| lost(format!("MASTER_ADDR names no host: {host}: {e}")))?;
        for at in found {
            let left = until.saturating_duration_since(Instant::now()).clamp(PAUSE, Duration::from_secs(5));
            let answer = TcpStream::connect_timeout(&at, left).and_then(|mut stream| {
                prepare(&stream, patience)?;
                Hello { rank: world.rank, size: world.size, port: own_port, key: &world.key }.write(&mut stream)?;
                let mut kind = [0];
                stream.read_exact(&mut kind)?;
                Ok((stream, kind[0]))
            });
            match answer {
                Ok((stream, WAIT)) => {
                    // Rank 0 says nothing more before all others are there.
                    let text = welcome(&stream, until, &|| waiting("other ranks, as rank 0 does"))?;
                    return Ok((stream, places(&text, at, world.size)?));
                }
                Ok(_) => last = "a rank 0 of another run, or of an earlier start of this one, is there".to_owned(),
                Err(e) => last = e.to_string(),
            }
        }
        waiting(&format!("rank 0 at {host}:{port} ({last})"))?;
        std::thread::sleep(PAUSE);
    }
    let seconds = patience.starting.as_secs();
    Err(lost(format!("rank {} has not found rank 0 at {host}:{port} within {seconds} seconds: {last}", world.rank)))
}

/// Rank 0's list of all ranks, when it comes.
fn welcome(stream: &TcpStream, until: Instant, waiting: &dyn Fn() -> Result<()>) -> Result<Vec<u8>> {
    loop {
        alive(0, stream)?;
        let mut kind = [0];
        stream.set_read_timeout(Some(PAUSE)).map_err(|_| early(0))?;
        match stream.peek(&mut kind) {
            Ok(_) if kind[0] == WELCOME => break,
            _ if Instant::now() >= until => return Err(lost("rank 0 has not said in time who is there".into())),
            _ => waiting()?,
        }
    }
    let mut from: &TcpStream = stream;
    let read = from.set_read_timeout(Some(Duration::from_secs(5))).and_then(|()| from.read_exact(&mut [0]));
    let text = read.and_then(|()| get(from, TEXT * 64)).map_err(|_| early(0))?;
    stream.set_read_timeout(None).map_err(|_| early(0))?;
    Ok(text)
}

/// The error of a rank that is gone before all have met.
fn early(rank: usize) -> crate::Error {
    lost(format!("rank {rank} has ended before all ranks were connected"))
}

/// Refuses a connection to `rank` that has ended, or says why ranks do not meet. Nothing is taken from it.
fn alive(rank: usize, stream: &TcpStream) -> Result<()> {
    let mut kind = [0];
    let seen = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut kind));
    stream.set_nonblocking(false).map_err(|_| early(rank))?;
    match seen {
        Ok(0) => Err(early(rank)),
        Ok(_) if kind[0] == ENDED => {
            let mut from: &TcpStream = stream;
            let text = from.read_exact(&mut kind).and_then(|()| get(from, 1 << 20)).map_err(|_| early(rank))?;
            Err(lost(String::from_utf8_lossy(&text).into_owned()))
        }
        Ok(_) => Ok(()),
        Err(e) if matches!(e.kind(), Io::WouldBlock | Io::Interrupted) => Ok(()),
        Err(_) => Err(early(rank)),
    }
}

/// Where the ranks listen, from rank 0's list. Who is on rank 0's machine may be known there by an address that means
/// something else elsewhere; for others it is where rank 0 is.
fn places(text: &[u8], rank_0: SocketAddr, size: usize) -> Result<Vec<SocketAddr>> {
    let text = String::from_utf8_lossy(text);
    let places: std::result::Result<Vec<SocketAddr>, _> = text.split_whitespace().map(str::parse).collect();
    let places = places.ok().filter(|places| places.len() == size);
    let places = places.ok_or_else(|| lost("rank 0 sends a list of ranks that cannot be read".into()))?;
    let here = |place: SocketAddr| {
        let on_its_machine = place.ip().is_loopback() || place.ip().is_unspecified();
        if on_its_machine { SocketAddr::new(rank_0.ip(), place.port()) } else { place }
    };
    Ok(places.into_iter().map(here).collect())
}

/// Tells those that wait already why ranks do not meet.
fn refuse_all<'a>(there: impl Iterator<Item = &'a (usize, TcpStream)>, why: &str) {
    let mut message = vec![ENDED];
    put(&mut message, why.as_bytes());
    for (_, stream) in there {
        let mut stream: &TcpStream = stream;
        let _ = stream.write_all(&message);
    }
}

/// The next connection; `None` when time is up. `go_on` is asked while there is none.
fn accept(
    listener: &TcpListener,
    until: Instant,
    go_on: impl Fn() -> Result<()>,
) -> Result<Option<(TcpStream, SocketAddr)>> {
    let broken = |e| lost(format!("this rank cannot listen for others: {e}"));
    listener.set_nonblocking(true).map_err(broken)?;
    loop {
        match listener.accept() {
            Ok((stream, from)) => {
                stream.set_nonblocking(false).map_err(broken)?;
                return Ok(Some((stream, from)));
            }
            Err(_) if Instant::now() >= until => return Ok(None),
            Err(_) => go_on()?,
        }
        std::thread::sleep(GLANCE);
    }
}

/// Tries until it works or time is up.
fn patient<T>(until: Instant, mut attempt: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match attempt() {
            Err(_) if Instant::now() < until => std::thread::sleep(PAUSE),
            done => return done,
        }
    }
}

/// What all connections have: no delay of small messages, and an end when the other machine is silent, or takes nothing,
/// for some time. A rank that says nothing while ranks meet is not waited for.
fn prepare(stream: &TcpStream, patience: Patience) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let socket = SockRef::from(stream);
    let quarter = (patience.silence / 4).max(Duration::from_secs(1));
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(quarter).with_interval(quarter).with_retries(3))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(patience.silence))?;
    Ok(())
}

/// Who connects.
struct Hello<'a> {
    rank: usize,
    size: usize,
    port: u16,
    key: &'a str,
}

impl Hello<'_> {
    fn write(&self, to: &mut TcpStream) -> std::io::Result<()> {
        let mut message = MAGIC.to_vec();
        for number in [self.rank, self.size, usize::from(self.port)] {
            message.extend((number as u32).to_le_bytes());
        }
        put(&mut message, self.key.as_bytes());
        to.write_all(&message)
    }

    /// Rank, size, port and key.
    fn read(from: &mut TcpStream) -> std::io::Result<(usize, usize, u16, String)> {
        let mut start = [0; 20];
        from.read_exact(&mut start)?;
        let number = |i: usize| {
            let at = 8 + 4 * i;
            u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]])
        };
        let port = u16::try_from(number(2)).ok();
        let (Some(port), true) = (port, start.starts_with(MAGIC)) else {
            return Err(std::io::Error::other("this is no rank"));
        };
        let key = String::from_utf8_lossy(&get(from, TEXT)?).into_owned();
        Ok((number(0) as usize, number(1) as usize, port, key))
    }
}

/// Appends a text with its length.
pub(super) fn put(message: &mut Vec<u8>, text: &[u8]) {
    message.extend((text.len() as u32).to_le_bytes());
    message.extend(text);
}

/// Reads a text of at most `most` bytes.
pub(super) fn get(mut from: impl Read, most: usize) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > most {
        return Err(std::io::Error::other("a text is too long"));
    }
    let mut text = vec![0; length];
    from.read_exact(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_on_the_machine_of_rank_0_is_found_there() {
        let found = places(b"0.0.0.0:7 127.0.0.1:8 10.0.0.3:9", "10.0.0.1:5".parse().unwrap(), 3).unwrap();
        let want = ["10.0.0.1:7", "10.0.0.1:8", "10.0.0.3:9"].map(|place| place.parse().unwrap());
        assert_eq!(found, want);
        assert!(places(b"0.0.0.0:7", "10.0.0.1:5".parse().unwrap(), 2).is_err());
    }
}
