//! What a client is told when the store did not do what it asked for.
//!
//! | what happened | answer | may it have been applied? | what to do |
//! |---|---|---|---|
//! | the key holds another kind | `-WRONGTYPE` | no | use another command, or `DEL` first |
//! | too few replicas are up, or answered in time | `-CLUSTERDOWN` | no | try again |
//! | too few replicas have confirmed a write, or the node that made it was lost | `-UNKNOWN` | yes, now or later | read, and decide |
//! | a disk failed | `-UNKNOWN` | yes | read, and decide |
//! | a counter left the range of 64 bits, and was not brought back | `-UNKNOWN` | yes | read, and decide |
//! | others have led the counter beyond 64 bits meanwhile | `-ERR it was added` | yes, it was | step back |
//! | the key, value or number of elements is over a limit | `-ERR` | no | ask for less |
//! | so many disks are full that too few replicas are left | `-ERR` | no | make room, and start those nodes again |
//! | the node is stopping | `-ERR` | no | use another node |
//!
//! A command for several keys (`MSET`, `DEL`, `MGET`, `EXISTS`) is one call of the store for each. If some fail, the answer
//! is the error that says least, before all others `-UNKNOWN`, and says how many failed; the others were done.

use polity::Outcome;
use polity::kv::KvError;

use crate::reply::Reply;

/// In the words of Redis.
const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";

impl From<KvError> for Reply {
    fn from(error: KvError) -> Self {
        Self::Error(text(&error))
    }
}

fn text(error: &KvError) -> String {
    match error {
        KvError::WrongKind { .. } => WRONG_TYPE.to_owned(),
        error if error.outcome() == Outcome::Unknown => {
            format!("UNKNOWN the command may have been applied: {error}")
        }
        error if error.is_retryable() => format!("CLUSTERDOWN the command was not applied: {error}"),
        error => format!("ERR {error}"),
    }
}

/// A counter was to go back by what had led it out of its range, and that has failed.
pub(crate) fn not_taken_back(error: KvError) -> Reply {
    Reply::Error(format!("UNKNOWN the step leads beyond 64 bits, and may not have been taken back: {error}"))
}

/// Of the calls of one command all have ended: what they returned, or what the client is told.
pub(crate) fn all<T>(ended: Vec<Result<T, KvError>>) -> Result<Vec<T>, Reply> {
    let (calls, mut done, mut failed) = (ended.len(), Vec::with_capacity(ended.len()), Vec::new());
    for call in ended {
        match call {
            Ok(value) => done.push(value),
            Err(error) => failed.push(error),
        }
    }
    let count = failed.len();
    let is_unknown = |error: &KvError| error.outcome() == Outcome::Unknown;
    let at = failed.iter().position(is_unknown).unwrap_or(0);
    match failed.get(at) {
        None => Ok(done),
        Some(error) if calls == 1 => Err(Reply::Error(text(error))),
        Some(error) => Err(Reply::Error(format!("{} ({count} of {calls} keys failed)", text(error)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use polity::kv::Kind;

    fn few(outcome: Outcome) -> KvError {
        let (what, reason) = ("a write", "n2: the time was over".to_owned());
        KvError::NotEnoughReplicas { what, answered: 1, needed: 2, reason, outcome }
    }

    fn wrong() -> KvError {
        KvError::WrongKind { found: Kind::Set, wanted: Kind::Counter }
    }

    #[test]
    fn an_error_says_whether_the_command_may_have_been_applied() {
        for (error, wanted) in [
            (wrong(), "WRONGTYPE Operation against a key holding the wrong kind of value"),
            (few(Outcome::NotApplied), "CLUSTERDOWN the command was not applied: a write: 1 of 2"),
            (few(Outcome::Unknown), "UNKNOWN the command may have been applied: a write: 1 of 2"),
            (KvError::CoordinatorLost { reason: String::new() }, "UNKNOWN the command may have been applied: "),
            (KvError::Stopped, "ERR the store has stopped"),
            (
                KvError::KeySize { bytes: 0, limit: 9 },
                "ERR a key has 1 to 9 bytes, and this one has 0; nothing was done",
            ),
        ] {
            assert!(text(&error).starts_with(wanted), "{error:?}: {}", text(&error));
        }
        // Whatever has become of the second write, the first was applied.
        for outcome in [Outcome::NotApplied, Outcome::Unknown] {
            let told = not_taken_back(few(outcome));
            assert!(matches!(&told, Reply::Error(text) if text.starts_with("UNKNOWN ")), "{told:?}");
        }
    }

    #[test]
    fn of_several_keys_the_error_that_says_least_is_told() {
        assert_eq!(all(vec![Ok(1), Ok(2)]), Ok(vec![1, 2]));
        assert_eq!(all::<()>(vec![Err(wrong())]), Err(Reply::Error(WRONG_TYPE.to_owned())));
        let Err(Reply::Error(told)) = all(vec![Ok(1), Err(wrong()), Err(few(Outcome::Unknown))]) else {
            panic!("two have failed")
        };
        assert!(told.starts_with("UNKNOWN ") && told.ends_with("(2 of 3 keys failed)"), "{told}");
    }
}
