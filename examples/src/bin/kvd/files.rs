//! How many files the process may have open, and how many clients that leaves room for.

use polity::kv::engine::durable::MAX_CACHED_FILES;

/// What a node has open beside its clients: its sockets, its journals, and the tables that are written and merged.
const OF_NODE: usize = 128;
/// As Redis has 10,000, but with less memory to lose.
const DEFAULT_CONNECTIONS: usize = 1000;

/// How many clients may be connected at once: as many as are wanted, or as there is room for if nobody has said how many.
pub(crate) fn connections(wanted: Option<usize>, limit: Option<usize>, is_durable: bool) -> Result<usize, String> {
    let others = OF_NODE + if is_durable { MAX_CACHED_FILES } else { 0 };
    let room = limit.map_or(usize::MAX, |limit| limit.saturating_sub(others));
    match (wanted, limit) {
        (Some(wanted), Some(limit)) if wanted > room => Err(format!(
            "--connections {wanted} needs {} open files, and {limit} are allowed (ulimit -n): allow more, or say --connections {room}",
            wanted + others
        )),
        (None, Some(limit)) if room == 0 => {
            Err(format!("a node needs more than {others} open files, and {limit} are allowed (ulimit -n)"))
        }
        _ => Ok(wanted.unwrap_or(DEFAULT_CONNECTIONS.min(room))),
    }
}

/// What was lowered for want of files, in one line.
pub(crate) fn notice(connections: usize) -> Option<String> {
    (connections < DEFAULT_CONNECTIONS).then(|| {
        format!("serves {connections} clients at once instead of {DEFAULT_CONNECTIONS}: more open files are not allowed (ulimit -n)")
    })
}

/// How many files the system lets the process have open, if there is a limit and the system tells.
pub(crate) fn limit() -> Option<usize> {
    limit_in(&std::fs::read_to_string("/proc/self/limits").ok()?)
}

/// The one that counts is named before the one up to which it may be raised.
fn limit_in(limits: &str) -> Option<usize> {
    limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             31418                31418                processes \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(limit_in(limits), Some(1024));
        assert_eq!(limit_in(&limits.replace("1024  ", "unlimited")), None);
        assert!(!cfg!(target_os = "linux") || std::fs::read_to_string("/proc/self/limits").is_ok());
    }

    #[test]
    fn there_is_a_file_for_each_client() {
        assert_eq!(connections(None, None, true), Ok(DEFAULT_CONNECTIONS));
        assert_eq!(connections(None, Some(1 << 20), true), Ok(DEFAULT_CONNECTIONS));
        assert_eq!(connections(None, Some(1024), false), Ok(896));
        assert_eq!(connections(None, Some(1024), true), Ok(640));
        assert_eq!(connections(Some(640), Some(1024), true), Ok(640));
        let refused = connections(Some(641), Some(1024), true).expect_err("too many");
        assert!(
            refused.contains("1025") && refused.contains("1024") && refused.contains("--connections 640"),
            "{refused}"
        );
        assert!(connections(None, Some(100), false).is_err());
        assert!(notice(896).is_some() && notice(DEFAULT_CONNECTIONS).is_none());
    }
}
