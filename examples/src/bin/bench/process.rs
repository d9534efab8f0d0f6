//! A node in a process of its own, which is told what to do in lines and answers in lines.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

pub(crate) struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// This program as node `at`, with a command of its own and the address of another node, or `-`.
pub(crate) fn node(command: &str, at: usize, seed: &str) -> Result<Command> {
    let mut node = Command::new(std::env::current_exe()?);
    node.args([command, &format!("n{at}"), seed]);
    Ok(node)
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take().context("a pipe was asked for")?;
        let stdout = BufReader::new(child.stdout.take().context("a pipe was asked for")?);
        Ok(Self { child, stdin, stdout })
    }

    /// By which the system knows it.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it with SIGKILL, and waits until it has ended.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub(crate) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.stdout.read_line(&mut line)? > 0, "a node has ended");
        Ok(line.trim_end().to_owned())
    }

    pub(crate) fn tell(&mut self, order: &str) -> Result<()> {
        writeln!(self.stdin, "{order}").context("a node has ended")
    }

    /// Tells it something, and returns what it answers.
    pub(crate) fn ask(&mut self, order: &str) -> Result<String> {
        self.tell(order)?;
        self.line()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
