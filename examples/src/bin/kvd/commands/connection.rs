//! The connection: its protocol, its name, its end.

use bytes::Bytes;

use super::{number, unknown_subcommand, wrong_arity};
use crate::reply::{Reply, Version};
use crate::session::Session;

/// The longest name of a connection.
const MAX_NAME_BYTES: usize = 256;

pub(super) fn ping(_: &mut Session, arguments: &[Bytes]) -> Reply {
    match arguments {
        [_] => Reply::Simple("PONG"),
        [_, text] => Reply::Bulk(text.clone()),
        _ => wrong_arity("ping"),
    }
}

pub(super) fn echo(_: &mut Session, arguments: &[Bytes]) -> Reply {
    Reply::Bulk(arguments[1].clone())
}

pub(super) fn quit(session: &mut Session, _: &[Bytes]) -> Reply {
    session.is_over = true;
    Reply::OK
}

pub(super) fn select(_: &mut Session, arguments: &[Bytes]) -> Reply {
    match number(&arguments[1]) {
        Ok(0) => Reply::OK,
        Ok(_) => Reply::error("DB index is out of range"),
        Err(refused) => refused,
    }
}

/// `HELLO [VERSION [AUTH USER PASSWORD] [SETNAME NAME]]`. Nothing is changed unless all of it can be.
pub(super) fn hello(session: &mut Session, arguments: &[Bytes]) -> Reply {
    let mut options = &arguments[1..];
    let (mut version, mut name) = (session.version, None);
    if let [wanted, rest @ ..] = options {
        options = rest;
        version = match &wanted[..] {
            b"2" => Version::Resp2,
            b"3" => Version::Resp3,
            _ => return Reply::Error("NOPROTO unsupported protocol version".to_owned()),
        };
    }
    while let [option, rest @ ..] = options {
        options = match (&option.to_ascii_uppercase()[..], rest) {
            (b"SETNAME", [wanted, rest @ ..]) => {
                if let Err(refused) = check_name(wanted) {
                    return refused;
                }
                name = Some(wanted.clone());
                rest
            }
            (b"AUTH", [_, _, ..]) => return Reply::error("there are no users and no passwords here"),
            _ => return Reply::error(format!("Syntax error in HELLO option '{}'", String::from_utf8_lossy(option))),
        };
    }
    session.version = version;
    if let Some(name) = name {
        session.name = own(&name);
    }
    let pair = |name: &'static str, reply| (Bytes::from_static(name.as_bytes()), reply);
    Reply::Map(vec![
        pair("server", Reply::text("kvd")),
        pair("version", Reply::text(env!("CARGO_PKG_VERSION"))),
        pair("proto", Reply::Integer(if version == Version::Resp3 { 3 } else { 2 })),
        pair("id", Reply::Integer(i64::try_from(session.id).unwrap_or(i64::MAX))),
        pair("mode", Reply::text("standalone")),
        pair("role", Reply::text("master")),
        pair("modules", Reply::Array(Vec::new())),
    ])
}

pub(super) fn client(session: &mut Session, arguments: &[Bytes]) -> Reply {
    match (&arguments[1].to_ascii_uppercase()[..], &arguments[2..]) {
        (b"ID", []) => Reply::Integer(i64::try_from(session.id).unwrap_or(i64::MAX)),
        (b"GETNAME", []) => Reply::of(Some(session.name.clone()).filter(|name| !name.is_empty())),
        (b"SETNAME", [name]) => match check_name(name) {
            Ok(()) => {
                session.name = own(name);
                Reply::OK
            }
            Err(refused) => refused,
        },
        // What a library says of itself is of no use here.
        (b"SETINFO", [attribute, _]) => match &attribute.to_ascii_uppercase()[..] {
            b"LIB-NAME" | b"LIB-VER" => Reply::OK,
            _ => Reply::error(format!("Unrecognized option '{}'", String::from_utf8_lossy(attribute))),
        },
        (b"ID" | b"GETNAME" | b"SETNAME" | b"SETINFO", _) => {
            wrong_arity(&format!("client|{}", String::from_utf8_lossy(&arguments[1]).to_lowercase()))
        }
        (name, _) => unknown_subcommand("CLIENT", name),
    }
}

/// A copy: an argument shares the memory of what was read together with it.
fn own(name: &Bytes) -> Bytes {
    Bytes::copy_from_slice(name)
}

fn check_name(name: &[u8]) -> Result<(), Reply> {
    if name.len() > MAX_NAME_BYTES {
        return Err(Reply::error(format!("the name of a client has at most {MAX_NAME_BYTES} bytes")));
    }
    if name.iter().all(u8::is_ascii_graphic) {
        return Ok(());
    }
    Err(Reply::error("Client names cannot contain spaces, newlines or special characters."))
}
