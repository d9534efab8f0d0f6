//! What a client can ask about the node and its commands.

use std::fmt::Write as _;

use bytes::Bytes;

use super::{Access, Command, TABLE, unknown_subcommand, wrong_arity};
use crate::reply::Reply;
use crate::session::{Session, Shared};

/// What the answers of most commands are modelled on. Clients choose by it what they may ask for.
const REDIS_VERSION: &str = "7.0.0";

/// `INFO [SECTION]...`: all sections, or those that are named.
pub(super) fn info(session: &mut Session, arguments: &[Bytes]) -> Reply {
    let wanted: Vec<String> =
        arguments[1..].iter().map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect();
    let is_all = wanted.is_empty() || wanted.iter().any(|name| matches!(&**name, "all" | "default" | "everything"));
    let mut text = String::new();
    for (name, lines) in sections(&session.shared) {
        if is_all || wanted.contains(&name.to_ascii_lowercase()) {
            let separator = if text.is_empty() { "" } else { "\r\n" };
            let _ = write!(text, "{separator}# {name}\r\n");
            for (key, value) in lines {
                let _ = write!(text, "{key}:{value}\r\n");
            }
        }
    }
    Reply::text(text)
}

type Lines = Vec<(&'static str, String)>;

fn sections(shared: &Shared) -> [(&'static str, Lines); 4] {
    let (node, view) = (&shared.node, shared.node.members().snapshot());
    let up: Vec<String> = view.up().map(|member| member.id.name.to_string()).collect();
    let config = node.kv().config();
    [
        (
            "Server",
            vec![
                ("redis_version", REDIS_VERSION.to_owned()),
                ("redis_mode", "standalone".to_owned()),
                ("kvd_version", env!("CARGO_PKG_VERSION").to_owned()),
                ("process_id", std::process::id().to_string()),
                ("uptime_in_seconds", shared.started.elapsed().as_secs().to_string()),
            ],
        ),
        (
            "Clients",
            vec![
                ("connected_clients", shared.connected().to_string()),
                ("maxclients", shared.max_connections.to_string()),
            ],
        ),
        ("Replication", vec![("role", "master".to_owned()), ("connected_slaves", "0".to_owned())]),
        (
            "Polity",
            vec![
                ("node", node.id().name.to_string()),
                ("boot", node.id().boot.to_string()),
                ("addr", node.addr().to_string()),
                ("members_up", up.len().to_string()),
                ("members", up.join(",")),
                ("replicas", config.replicas.get().to_string()),
                ("durable", u8::from(shared.is_durable).to_string()),
            ],
        ),
    ]
}

/// `CONFIG GET NAME...`: the settings that tools ask for. In a name `*` stands for anything.
pub(super) fn config(session: &mut Session, arguments: &[Bytes]) -> Reply {
    match (&arguments[1].to_ascii_uppercase()[..], &arguments[2..]) {
        (b"GET", []) => wrong_arity("config|get"),
        (b"GET", names) => {
            let shared = &session.shared;
            let settings = [
                ("appendonly", if shared.is_durable { "yes" } else { "no" }.to_owned()),
                ("databases", "1".to_owned()),
                ("maxclients", shared.max_connections.to_string()),
                ("maxmemory", "0".to_owned()),
                ("save", String::new()),
            ];
            let is_wanted = |setting: &str| names.iter().any(|name| matches(name, setting.as_bytes()));
            let told = settings.into_iter().filter(|(name, _)| is_wanted(name));
            Reply::Map(told.map(|(name, value)| (Bytes::from_static(name.as_bytes()), Reply::text(value))).collect())
        }
        (name, _) => unknown_subcommand("CONFIG", name),
    }
}

/// Whether a text, in whatever case, is what a pattern means, in which each `*` stands for anything.
fn matches(mut pattern: &[u8], mut text: &[u8]) -> bool {
    // After the last `*`: what follows it, and what it has not taken. Taking more than needed never helps an earlier one.
    let mut after_star: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern, text) {
            ([b'*', rest @ ..], _) => {
                pattern = rest;
                after_star = Some((rest, text));
            }
            ([], []) => return true,
            ([a, more @ ..], [b, rest @ ..]) if a.eq_ignore_ascii_case(b) => (pattern, text) = (more, rest),
            _ => match after_star {
                Some((rest, [_, fewer @ ..])) => {
                    (pattern, text) = (rest, fewer);
                    after_star = Some((rest, fewer));
                }
                _ => return false,
            },
        }
    }
}

/// `COMMAND [COUNT | LIST | INFO [NAME]... | DOCS [NAME]...]`.
pub(super) fn command(_: &mut Session, arguments: &[Bytes]) -> Reply {
    let [_, subcommand, names @ ..] = arguments else {
        return Reply::Array(TABLE.iter().map(row).collect());
    };
    match (&subcommand.to_ascii_uppercase()[..], names) {
        (b"COUNT", []) => Reply::count(TABLE.len()),
        (b"LIST", []) => Reply::Array(TABLE.iter().map(|command| Reply::text(command.name)).collect()),
        (b"INFO", []) => Reply::Array(TABLE.iter().map(row).collect()),
        (b"INFO", names) => {
            Reply::Array(names.iter().map(|name| Command::find(name).map_or(Reply::Nil, row)).collect())
        }
        (b"DOCS", names) => {
            let is_wanted = |command: &&Command| {
                names.is_empty() || names.iter().any(|name| name.eq_ignore_ascii_case(command.name.as_bytes()))
            };
            let docs = |command: &Command| (Bytes::from_static(command.name.as_bytes()), docs(command));
            Reply::Map(TABLE.iter().filter(is_wanted).map(docs).collect())
        }
        (b"COUNT" | b"LIST", _) => {
            wrong_arity(&format!("command|{}", String::from_utf8_lossy(subcommand).to_lowercase()))
        }
        (name, _) => unknown_subcommand("COMMAND", name),
    }
}

fn row(command: &'static Command) -> Reply {
    let Command { name, arity, access, keys: (first, last, step), .. } = command;
    let (flag, category) = match access {
        Access::Reads => ("readonly", "@read"),
        Access::Writes => ("write", "@write"),
        Access::Nothing => ("fast", "@connection"),
    };
    let nothing = || Reply::Array(Vec::new());
    Reply::Array(vec![
        Reply::text(*name),
        Reply::Integer(*arity),
        Reply::Array(vec![Reply::Simple(flag)]),
        Reply::Integer(*first),
        Reply::Integer(*last),
        Reply::Integer(*step),
        Reply::Array(vec![Reply::Simple(category)]),
        // Hints, descriptions of keys, and subcommands: clients expect a place for each.
        nothing(),
        nothing(),
        nothing(),
    ])
}

fn docs(command: &Command) -> Reply {
    let pair = |name: &'static str, text| (Bytes::from_static(name.as_bytes()), Reply::text(text));
    Reply::Map(vec![pair("summary", command.summary), pair("since", "1.0.0"), pair("group", command.group)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything_wherever_it_is() {
        for pattern in
            ["maxmemory", "MaxMemory", "*", "**", "max*", "*memory", "m*y", "*ax*mo*", "*maxmemory*", "m*m*m*y"]
        {
            assert!(matches(pattern.as_bytes(), b"maxmemory"), "{pattern}");
        }
        for pattern in ["", "max", "memory", "maxmemory2", "max*x", "*maxm", "y*m", "m*m*m*m*y", "?axmemory"] {
            assert!(!matches(pattern.as_bytes(), b"maxmemory"), "{pattern}");
        }
        assert!(matches(b"", b"") && matches(b"*", b"") && !matches(b"a", b""));
    }

    #[test]
    fn a_long_pattern_comes_to_an_end() {
        let stars = b"a*".repeat(1 << 20);
        assert!(!matches(&stars, b"aaaaaaaaab"));
    }
}
