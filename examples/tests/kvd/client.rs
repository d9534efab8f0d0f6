//! A client that knows the bytes of the protocol and nothing of the program.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// After so long without an answer a test fails instead of hanging: far more than any command may take.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Nil,
    Array(Vec<Self>),
    // The newer version of the protocol only.
    Null,
    Map(Vec<(Self, Self)>),
    Set(Vec<Self>),
}

pub(crate) struct Client {
    addr: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).expect("a node that serves");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("a socket");
        Self { addr, stream: BufReader::new(stream) }
    }

    pub(crate) fn another(&self) -> Self {
        Self::connect(self.addr)
    }

    /// Sends words, and waits for the answer.
    pub(crate) fn ask(&mut self, words: &str) -> Answer {
        self.send(&[words.to_owned()]);
        self.answer()
    }

    /// Sends all at once, and waits for as many answers.
    pub(crate) fn ask_all(&mut self, requests: &[String]) -> Vec<Answer> {
        self.send(requests);
        requests.iter().map(|_| self.answer()).collect()
    }

    pub(crate) fn call(&mut self, arguments: &[&[u8]]) -> Answer {
        self.send_bytes(&encode(arguments));
        self.answer()
    }

    pub(crate) fn send(&mut self, requests: &[String]) {
        let encoded = requests.iter().map(|words| encode(&words.split(' ').map(str::as_bytes).collect::<Vec<_>>()));
        self.send_bytes(&encoded.collect::<Vec<_>>().concat());
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        // What a node does not want to read any more, it says in its answer.
        let _ = self.stream.get_mut().write_all(bytes);
    }

    pub(crate) fn answer(&mut self) -> Answer {
        self.read().expect("an answer")
    }

    /// `None` if the connection has ended.
    pub(crate) fn try_answer(&mut self) -> Option<Answer> {
        self.read().ok()
    }

    /// The node's and its own.
    pub(crate) fn ports(&self) -> (u16, u16) {
        (self.addr.port(), self.stream.get_ref().local_addr().expect("it is connected").port())
    }

    pub(crate) fn is_closed(&mut self) -> bool {
        match self.stream.read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    fn read(&mut self) -> io::Result<Answer> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        let line = String::from_utf8(line).expect("a header is text");
        let Some(line) = line.strip_suffix("\r\n") else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        let (mark, rest) = line.split_at(1);
        let number = || rest.parse::<i64>().expect("a number");
        Ok(match mark {
            "+" => Answer::Simple(rest.to_owned()),
            "-" => Answer::Error(rest.to_owned()),
            ":" => Answer::Integer(number()),
            "_" => Answer::Null,
            "$" if number() == -1 => Answer::Nil,
            "$" => {
                let mut bytes = vec![0; number() as usize + 2];
                self.stream.read_exact(&mut bytes)?;
                assert!(bytes.ends_with(b"\r\n"));
                bytes.truncate(bytes.len() - 2);
                Answer::Bulk(bytes)
            }
            "*" => Answer::Array((0..number()).map(|_| self.read()).collect::<io::Result<_>>()?),
            "~" => Answer::Set((0..number()).map(|_| self.read()).collect::<io::Result<_>>()?),
            "%" => Answer::Map((0..number()).map(|_| Ok((self.read()?, self.read()?))).collect::<io::Result<_>>()?),
            _ => panic!("no answer begins so: {line:?}"),
        })
    }
}

fn encode(arguments: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}
