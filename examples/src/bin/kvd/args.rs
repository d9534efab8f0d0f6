//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

pub(crate) const USAGE: &str = "\
usage: kvd [--name NAME] [--listen IP:PORT] [--redis IP:PORT] [--seed IP:PORT]...
  --name NAME         the node's name, another for each; it keeps it when it is started again (default n1)
  --listen IP:PORT    where the nodes of the cluster reach it (default 127.0.0.1:7401)
  --redis IP:PORT     where it serves clients, in the protocol of Redis (default 127.0.0.1:6401)
  --seed IP:PORT      where other nodes listen, as often as needed; without any it is the first of its cluster
  --data DIR          keep the data on disk, in a folder of this node's own, synced before a write is acknowledged
  --secret FILE       a secret of at least 32 bytes that all nodes share, as text: white space around it does not count; needed
                      beyond loopback
  --connections N     how many clients may be connected (at most 65536; default 1000, or as many as the limit of open files leaves room
                      for: the node needs 128 files beside, and 256 more with --data)
  --trust-clients     serve clients beyond loopback: there are no passwords, so whoever reaches the port may do everything

Supported: GET SET (EX, PX) MGET MSET DEL EXISTS EXPIRE PEXPIRE TTL PTTL PERSIST TYPE INCR DECR INCRBY DECRBY
  SADD SREM SMEMBERS SISMEMBER SCARD HSET HGET HGETALL HDEL HMGET HLEN HEXISTS
  PING ECHO INFO COMMAND SELECT CONFIG CLIENT HELLO QUIT
Other than in Redis:
  - Any node serves any key, and there is no master. Without a majority of a key's three replicas: -CLUSTERDOWN.
  - -UNKNOWN says that a write may have been applied. Redis has no such answer.
  - The first write fixes what a key is, until nothing is there: it is deleted, expires, or loses its last element. SET,
    INCR, SADD and HSET refuse each other's keys. So INCR does not work on what SET has written, and SET does not replace a
    set.
  - If a key got two kinds on two sides of a split, both are kept and one shows, whichever was written first or last: a
    hash before a set, a set before a counter, a counter before a string. Commands for the other are told -WRONGTYPE. It
    shows once what hides it is gone: its last element or field is removed, or it expires. DEL removes both.
  - What INCR returns is no unique number: two clients may be told the same. No increment is lost.
  - A step that would lead a counter beyond 64 bits is refused, and leaves it where it was: of at most 2^62 by writing it and
    taking it back, so others may see it for a moment; -UNKNOWN if that fails. Clients that add at the same time may lead it
    beyond, and are told so if a step stays. GET tells where it stands, and steps back towards 64 bits are taken.
  - Not supported, and refused with an error: SET with NX, XX, GET, KEEPTTL, EXAT or PXAT; EXPIRE and PEXPIRE with NX, XX, GT
    or LT; transactions; scripts. Most of it a store without consensus cannot promise.
  - A client that has been silent for 300 seconds is asked by TCP whether it is there. One that does not answer loses its place after
    300 more. There is no setting for that, and no limit for one that is there and silent.
  - CONFIG GET knows appendonly, databases, maxclients, maxmemory and save; of patterns, `*`.
  - MSET is as many writes as it has keys. The commands of a pipeline that are for different keys may take effect in
    any order.
  - A key has at most 4 KiB, a string or what one SADD or HSET brings 1 MiB, a request 4 MiB and 8,193 arguments, and the
    answer to MGET or HMGET 16 MiB. A set or hash is one value, of at most 3 MiB: each question reads it whole, and a write
    costs as much as it has grown to. Many clients that write one of thousands of elements at once are told -UNKNOWN after two seconds.";

/// What a process may have open, at most, in most systems.
const MAX_CONNECTIONS: usize = 1 << 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) name: String,
    pub(crate) listen: SocketAddr,
    pub(crate) redis: SocketAddr,
    pub(crate) seeds: Vec<String>,
    pub(crate) data: Option<PathBuf>,
    pub(crate) secret: Option<PathBuf>,
    pub(crate) connections: Option<usize>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Start {
    Node(Options),
    Help,
}

impl Start {
    /// Understands the arguments after the program's name. The error is one line.
    pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut options = Options {
            name: "n1".to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], 7401)),
            redis: SocketAddr::from(([127, 0, 0, 1], 6401)),
            seeds: Vec::new(),
            data: None,
            secret: None,
            connections: None,
        };
        let mut trusts_clients = false;
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let (name, value) = match arg.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (arg.as_str(), None),
            };
            let mut value = || value.clone().or_else(|| args.next()).ok_or_else(|| format!("{name} takes a value"));
            match name {
                "--help" | "-h" => return Ok(Self::Help),
                "--name" => options.name = value()?,
                "--listen" => options.listen = addr(name, &value()?)?,
                "--redis" => options.redis = addr(name, &value()?)?,
                "--seed" => options.seeds.push(value()?),
                "--data" => options.data = Some(value()?.into()),
                "--secret" => options.secret = Some(value()?.into()),
                "--connections" => options.connections = Some(connections(&value()?)?),
                "--trust-clients" => trusts_clients = true,
                _ => return Err(format!("unknown argument {arg:?} (try --help)")),
            }
        }
        if !options.redis.ip().is_loopback() && !trusts_clients {
            return Err("whoever reaches --redis may do everything: beyond loopback say --trust-clients".to_owned());
        }
        Ok(Self::Node(options))
    }
}

fn addr(name: &str, value: &str) -> Result<SocketAddr, String> {
    value.parse().map_err(|_| format!("{name} takes IP:PORT, not {value:?}"))
}

fn connections(value: &str) -> Result<usize, String> {
    let number = value.parse().ok().filter(|number| (1..=MAX_CONNECTIONS).contains(number));
    number.ok_or_else(|| format!("--connections takes 1 to {MAX_CONNECTIONS}, not {value:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &str) -> Result<Start, String> {
        Start::parse(args.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_understood_or_refused_in_one_line() {
        let Ok(Start::Node(options)) = parse("--name n2 --redis=127.0.0.1:1 --seed a:1 --seed b:2 --data d") else {
            panic!("they make sense")
        };
        assert_eq!((&*options.name, options.redis.port()), ("n2", 1));
        assert_eq!((options.seeds, options.data), (vec!["a:1".to_owned(), "b:2".to_owned()], Some("d".into())));
        assert_eq!(parse("--help"), Ok(Start::Help));
        assert!(parse("--redis 0.0.0.0:6379 --trust-clients").is_ok());
        for wrong in
            ["--name", "--listen x", "--redis 127.0.0.1", "--redis 0.0.0.0:6379", "--connections 0", "--fast", "x"]
        {
            let problem = parse(wrong).expect_err(wrong);
            assert!(!problem.contains('\n'), "{problem}");
        }
    }

    #[test]
    fn the_help_names_every_option_that_is_refused() {
        let words = |text: &'static str| text.split([' ', ',', ';', '\n']).filter(|word| !word.is_empty());
        let (_, refused) = USAGE.split_once("Not supported").expect("a list");
        let (of_set, of_expire) = refused.split_once("EXPIRE").expect("both");
        for option in ["NX", "XX", "GET", "KEEPTTL", "EXAT", "PXAT"] {
            assert!(words(of_set).any(|word| word == option), "{option}");
        }
        for option in ["NX", "XX", "GT", "LT"] {
            assert!(words(of_expire).any(|word| word == option), "{option}");
        }
    }

    #[test]
    fn the_help_names_every_command() {
        for command in crate::commands::TABLE {
            let name = command.name.to_uppercase();
            assert!(USAGE.split_whitespace().any(|word| word == name), "{name}");
        }
    }
}
