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

/// `CONFIG GET NAME...`: the settings that tools ask for. A name is a whole one, or `*`.
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
            let is_wanted =
                |setting: &str| names.iter().any(|name| *name == "*" || name.eq_ignore_ascii_case(setting.as_bytes()));
            let told = settings.into_iter().filter(|(name, _)| is_wanted(name));
            Reply::Map(told.map(|(name, value)| (Bytes::from_static(name.as_bytes()), Reply::text(value))).collect())
        }
        (name, _) => unknown_subcommand("CONFIG", name),
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
