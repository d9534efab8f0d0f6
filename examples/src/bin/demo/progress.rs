//! What is shown while the demonstration works: bars on a terminal, plain lines elsewhere. All on standard error.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use crate::load::Load;

/// How often the bar is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// How often a plain line says how far it is.
const LINE_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub(crate) struct Progress {
    bar: ProgressBar,
    began: Instant,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        bar.set_style(style());
        Self { bar, began: Instant::now() }
    }

    fn is_plain(&self) -> bool {
        self.bar.is_hidden()
    }

    /// Something has happened that is worth a line.
    pub(crate) fn say(&self, text: impl AsRef<str>) {
        let line = format!("[{:5.1} s] {}", self.began.elapsed().as_secs_f64(), text.as_ref());
        if self.is_plain() { eprintln!("{line}") } else { self.bar.println(line) }
    }

    /// A bar of this many steps, all still to be done.
    pub(crate) fn bar(&self, what: &'static str, steps: usize) {
        self.bar.reset();
        self.bar.set_length(steps as u64);
        self.bar.set_message(what);
    }

    pub(crate) fn set(&self, done: usize) {
        self.bar.set_position((done as u64).min(self.bar.length().unwrap_or(0)));
    }

    /// Follows the load until the future is dropped.
    pub(crate) async fn follow(&self, load: &Arc<Load>, rows: usize) {
        let mut tick = tokio::time::interval(DRAW_EVERY);
        let mut last = (Instant::now(), 0);
        loop {
            tick.tick().await;
            let begun = load.begun();
            self.set(begun);
            let (at, before) = last;
            if self.is_plain() && at.elapsed() >= LINE_EVERY {
                let rate = (begun - before) as f64 / at.elapsed().as_secs_f64();
                self.say(format!("{begun} of {rows} rows replayed, {rate:.0} per second"));
                last = (Instant::now(), begun);
            }
        }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{msg:>12} [{bar:40}] {human_pos}/{human_len}  {per_sec}  {elapsed}")
        .expect("the template is valid")
        .progress_chars("=> ")
}
