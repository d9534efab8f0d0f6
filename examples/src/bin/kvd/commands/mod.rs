//! The table of commands: what there is, how many arguments each takes, which of them are keys, and what does it.
//!
//! The table drives everything: how a request is checked, which requests of a pipeline may be under way together, and what
//! `COMMAND` tells.

mod about;
mod connection;
mod hashes;
mod keys;
mod sets;
mod strings;

use std::future::Future;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{self, StreamExt as _};
use polity::KvError;

use crate::keyspace::Keyspace;
use crate::reply::Reply;
use crate::request::{Request, integer};
use crate::session::Session;

/// How many calls of the store one command may have under way.
const KEYS_AT_ONCE: usize = 32;
/// How much of the arguments of an unknown command its error repeats, as in Redis.
const MAX_REPEATED_BYTES: usize = 128;

/// The most bytes that the values of one answer take together.
const MAX_REPLY_BYTES: usize = 16 << 20;

/// An answer that the store is asked for.
pub(crate) type Answer<'a> = BoxFuture<'a, Reply>;

/// What does a command. It is given the arguments, its name among them, once their number is right.
pub(crate) enum Handler {
    /// Answered at once, from what the program knows; it may change the session.
    Session(fn(&mut Session, &[Bytes]) -> Reply),
    /// Answered by the store.
    Store(for<'a> fn(&'a Keyspace, &'a [Bytes]) -> Answer<'a>),
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Session(_) => "Session",
            Self::Store(_) => "Store",
        })
    }
}

/// What a command does with its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Reads,
    Writes,
    /// It has none.
    Nothing,
}

/// Which arguments are keys, as `COMMAND` tells it: the first, the last (from the end, if negative), and every how many.
type KeyArguments = (i64, i64, i64);
const NO_KEYS: KeyArguments = (0, 0, 0);
const ONE_KEY: KeyArguments = (1, 1, 1);
const ALL_KEYS: KeyArguments = (1, -1, 1);
const PAIRS: KeyArguments = (1, -1, 2);

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Command {
    /// In lower case.
    pub(crate) name: &'static str,
    /// How many arguments, its name among them; at least so many, if negative.
    pub(crate) arity: i64,
    pub(crate) access: Access,
    pub(crate) keys: KeyArguments,
    /// The chapter of the documentation of Redis.
    pub(crate) group: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) handler: Handler,
}

const fn at_once(
    name: &'static str,
    arity: i64,
    group: &'static str,
    summary: &'static str,
    handler: fn(&mut Session, &[Bytes]) -> Reply,
) -> Command {
    Command { name, arity, access: Access::Nothing, keys: NO_KEYS, group, summary, handler: Handler::Session(handler) }
}

/// A row of a command that the store answers: its handler is an `async fn` of the keyspace and the arguments.
macro_rules! stored {
    ($name:literal, $arity:literal, $access:ident, $keys:ident, $group:literal, $summary:literal, $handler:path) => {
        Command {
            name: $name,
            arity: $arity,
            access: Access::$access,
            keys: $keys,
            group: $group,
            summary: $summary,
            handler: Handler::Store(|keyspace, arguments| Box::pin($handler(keyspace, arguments))),
        }
    };
}

/// All commands, in the order of their names.
pub(crate) static TABLE: &[Command] = &[
    at_once("client", -2, "connection", "Names the connection, and tells its id.", connection::client),
    at_once("command", -1, "server", "Tells which commands there are.", about::command),
    at_once("config", -2, "server", "Tells a few settings.", about::config),
    stored!("decr", 2, Writes, ONE_KEY, "string", "Takes one from a counter.", strings::decr),
    stored!("decrby", 3, Writes, ONE_KEY, "string", "Takes a number from a counter.", strings::decrby),
    stored!("del", -2, Writes, ALL_KEYS, "generic", "Deletes keys.", keys::del),
    at_once("echo", 2, "connection", "Returns what it is given.", connection::echo),
    stored!("exists", -2, Reads, ALL_KEYS, "generic", "Counts keys that exist.", keys::exists),
    stored!("expire", -3, Writes, ONE_KEY, "generic", "Lets a key expire after seconds.", keys::expire),
    stored!("get", 2, Reads, ONE_KEY, "string", "Returns a string, or what a counter stands at.", strings::get),
    stored!("hdel", -3, Writes, ONE_KEY, "hash", "Removes fields.", hashes::hdel),
    at_once("hello", -1, "connection", "Chooses the version of the protocol.", connection::hello),
    stored!("hexists", 3, Reads, ONE_KEY, "hash", "Tells whether there is a field.", hashes::hexists),
    stored!("hget", 3, Reads, ONE_KEY, "hash", "Returns a field.", hashes::hget),
    stored!("hgetall", 2, Reads, ONE_KEY, "hash", "Returns all fields.", hashes::hgetall),
    stored!("hlen", 2, Reads, ONE_KEY, "hash", "Counts fields.", hashes::hlen),
    stored!("hmget", -3, Reads, ONE_KEY, "hash", "Returns several fields.", hashes::hmget),
    stored!("hset", -4, Writes, ONE_KEY, "hash", "Sets fields.", hashes::hset),
    stored!("incr", 2, Writes, ONE_KEY, "string", "Adds one to a counter.", strings::incr),
    stored!("incrby", 3, Writes, ONE_KEY, "string", "Adds a number to a counter.", strings::incrby),
    at_once("info", -1, "server", "Describes the node.", about::info),
    stored!("mget", -2, Reads, ALL_KEYS, "string", "Returns several strings.", strings::mget),
    stored!("mset", -3, Writes, PAIRS, "string", "Sets several strings, each for itself.", strings::mset),
    stored!("persist", 2, Writes, ONE_KEY, "generic", "Lets a key never expire.", keys::persist),
    stored!("pexpire", -3, Writes, ONE_KEY, "generic", "Lets a key expire after milliseconds.", keys::pexpire),
    at_once("ping", -1, "connection", "Answers.", connection::ping),
    stored!("pttl", 2, Reads, ONE_KEY, "generic", "Tells how many milliseconds a key has left.", keys::pttl),
    at_once("quit", -1, "connection", "Ends the connection.", connection::quit),
    stored!("sadd", -3, Writes, ONE_KEY, "set", "Adds elements.", sets::sadd),
    stored!("scard", 2, Reads, ONE_KEY, "set", "Counts elements.", sets::scard),
    at_once("select", 2, "connection", "Chooses the database, of which there is one.", connection::select),
    stored!("set", -3, Writes, ONE_KEY, "string", "Sets a string.", strings::set),
    stored!("sismember", 3, Reads, ONE_KEY, "set", "Tells whether there is an element.", sets::sismember),
    stored!("smembers", 2, Reads, ONE_KEY, "set", "Returns all elements.", sets::smembers),
    stored!("srem", -3, Writes, ONE_KEY, "set", "Removes elements.", sets::srem),
    stored!("ttl", 2, Reads, ONE_KEY, "generic", "Tells how many seconds a key has left.", keys::ttl),
    stored!("type", 2, Reads, ONE_KEY, "generic", "Tells of which kind a key is.", keys::kind),
];

impl Command {
    /// The row with this name, in whatever case.
    pub(crate) fn find(name: &[u8]) -> Option<&'static Self> {
        TABLE.iter().find(|command| name.eq_ignore_ascii_case(command.name.as_bytes()))
    }

    /// The row for a request.
    ///
    /// # Errors
    /// The answer, if there is none, or if the number of arguments is wrong.
    pub(crate) fn of(request: &Request) -> Result<&'static Self, Reply> {
        let (name, arguments) = request.split_first().expect("a request is not empty");
        let command = Self::find(name).ok_or_else(|| unknown(name, arguments))?;
        let is_right = match usize::try_from(command.arity) {
            Ok(exactly) => request.len() == exactly,
            Err(_) => request.len() as u64 >= command.arity.unsigned_abs(),
        };
        if is_right { Ok(command) } else { Err(wrong_arity(command.name)) }
    }

    /// The only key of a request for this command; `None` if it has none, or more.
    pub(crate) fn only_key<'a>(&self, request: &'a Request) -> Option<&'a Bytes> {
        let is_one = match self.keys {
            ONE_KEY => true,
            ALL_KEYS => request.len() == 2,
            PAIRS => request.len() == 3,
            _ => false,
        };
        request.get(1).filter(|_| is_one)
    }
}

/// In the words of Redis.
fn unknown(name: &[u8], arguments: &[Bytes]) -> Reply {
    let mut repeated = String::new();
    for argument in arguments {
        let room = MAX_REPEATED_BYTES.saturating_sub(repeated.len());
        if room == 0 {
            break;
        }
        repeated += &format!("'{}' ", String::from_utf8_lossy(&argument[..argument.len().min(room)]));
    }
    let name = String::from_utf8_lossy(&name[..name.len().min(MAX_REPEATED_BYTES)]);
    Reply::error(format!("unknown command '{name}', with args beginning with: {repeated}"))
}

fn wrong_arity(name: &str) -> Reply {
    Reply::error(format!("wrong number of arguments for '{name}' command"))
}

fn unknown_subcommand(command: &str, name: &[u8]) -> Reply {
    let name = String::from_utf8_lossy(&name[..name.len().min(MAX_REPEATED_BYTES)]);
    Reply::error(format!("unknown subcommand '{name}' of {command}"))
}

fn number(argument: &[u8]) -> Result<i64, Reply> {
    integer(argument).ok_or_else(|| Reply::error("value is not an integer or out of range"))
}

/// Of a handler that can fail in either of two ways there is one answer.
fn answer(result: Result<Reply, Reply>) -> Reply {
    result.unwrap_or_else(|error| error)
}

/// Refuses an answer that would be too large.
fn bounded(values: &[Reply]) -> Result<(), Reply> {
    let bytes = values.iter().map(|value| if let Reply::Bulk(bytes) = value { bytes.len() } else { 0 });
    if bytes.sum::<usize>() <= MAX_REPLY_BYTES {
        return Ok(());
    }
    Err(Reply::error(format!("the values take more than {MAX_REPLY_BYTES} bytes: ask for fewer")))
}

/// Calls the store for each of these, some at a time, and returns what became of each, in their order.
fn each<'a, F, T>(calls: impl Iterator<Item = F> + Send + 'a) -> BoxFuture<'a, Vec<Result<T, KvError>>>
where
    F: Future<Output = Result<T, KvError>> + Send + 'a,
    T: Send + 'a,
{
    stream::iter(calls).buffered(KEYS_AT_ONCE).collect().boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str) -> Request {
        line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
    }

    fn error(line: &str) -> String {
        match Command::of(&request(line)) {
            Err(Reply::Error(text)) => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_table_is_in_order_and_in_lower_case_and_makes_sense() {
        assert!(TABLE.is_sorted_by(|a, b| a.name < b.name));
        for command in TABLE {
            assert_eq!(command.name, command.name.to_ascii_lowercase());
            assert_eq!(command.keys == NO_KEYS, command.access == Access::Nothing, "{}", command.name);
            assert_eq!(matches!(command.handler, Handler::Session(_)), command.access == Access::Nothing);
            assert!(command.arity.unsigned_abs() >= 1 && command.summary.ends_with('.'), "{}", command.name);
            // Whoever is given a request may take the key that the table announces.
            assert!(command.keys == NO_KEYS || command.arity.unsigned_abs() >= 2, "{}", command.name);
        }
    }

    #[test]
    fn a_command_is_found_in_whatever_case_and_its_arguments_are_counted() {
        for line in ["GET k", "get k", "gEt k", "SET k v", "SET k v EX 5", "DEL a", "DEL a b c", "PING", "PING x"] {
            assert!(Command::of(&request(line)).is_ok(), "{line}");
        }
        for line in ["GET", "get a b", "SET k", "DEL", "HSET k f", "TTL k now"] {
            let name = line.split(' ').next().expect("a word").to_lowercase();
            assert_eq!(error(line), format!("ERR wrong number of arguments for '{name}' command"));
        }
    }

    #[test]
    fn an_unknown_command_is_refused_as_redis_does_it_and_briefly() {
        assert_eq!(error("FOO"), "ERR unknown command 'FOO', with args beginning with: ");
        assert_eq!(error("FOO a b"), "ERR unknown command 'FOO', with args beginning with: 'a' 'b' ");
        assert_eq!(error("GE k"), "ERR unknown command 'GE', with args beginning with: 'k' ");
        let long = error(&format!("{0} {0} {0}", "x".repeat(1 << 20)));
        assert!(long.len() < 400, "{}", long.len());
    }

    #[test]
    fn only_a_request_for_one_key_has_an_only_key() {
        for (line, key) in [
            ("GET k", Some("k")),
            ("SET k v", Some("k")),
            ("DEL k", Some("k")),
            ("DEL k l", None),
            ("MSET k v", Some("k")),
            ("MSET k v l w", None),
            ("HMGET k f g", Some("k")),
            ("PING k", None),
        ] {
            let request = request(line);
            let found = Command::of(&request).expect("a command").only_key(&request);
            assert_eq!(found.map(|key| &key[..]), key.map(str::as_bytes), "{line}");
        }
    }
}
