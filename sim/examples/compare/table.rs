//! The table, and what its words mean.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::arena::Mistakes;
use crate::life::{DETECTION, FORMATION, Life};
use crate::trouble::{Load, Trouble};
use crate::{Column, Found, troubles};

const NOTES: &str = "
All run on one network: 0.5 to 1 ms for everything, nothing lost unless said; times are median / worst. All start at once and
greet the first three.
agree: every member sees just those up that run. seen: it takes the killed one for down.
false positives: how often a member took for down one that ran undisturbed (of these, how often the member ran undisturbed
  itself) / how often that began, while nobody thought so before. 100 members, of which so many are in trouble.
blocked: what these send and what reaches them waits for 0.5 to 32 s and goes on for 1 ms to 1 s by turns, drawn once for each;
  their timers are on time (Lifeguard, section V). late: they handle what arrives 0.1 to 2 s late, their timers are on time.
stopped: the whole process stands still by turns, its clock goes on; what is due comes before what has waited.
pooled: blocked and late together; in % of plain SWIM with our times.
msg/s and B/s: datagrams of one member in a second, and their bytes: what is in UDP, with the seal (polity, kinship: encrypted;
  foca and chitchat: not). + push-pull: questions and answers over connections.
SWIM, our times: foca with our probe period, timeout, shortest suspicion, gossip interval and copies of a piece of news; what it
  asks others for is as rare as its lan preset has it. foca lan: Config::new_lan of the size. kinship-core is the protocol of
  memberlist; with our times its suspicion is the next longer whole number of logarithms (2 s instead of 1.5 s at 100).
chitchat: gossip every second and the failure detector that it has by default. Everything that it sends names all members, so it is
  not run with 1,000; its randomness cannot be seeded.
memberlist (the crate) is not here: it keeps time of its members' changes by the system's clock, and its tasks need streams and
  timers of a runtime, so a simulated minute is no minute for it.
";

fn secs(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64())
}

/// The median and the worst, of those that came to an end.
fn median_and_worst(times: &[Option<Duration>], most: Duration) -> String {
    let mut times: Vec<Duration> = times.iter().map(|time| time.unwrap_or(Duration::MAX)).collect();
    times.sort();
    let show = |time: Duration| if time == Duration::MAX { format!("> {}", most.as_secs()) } else { secs(time) };
    match (times.get(times.len() / 2), times.last()) {
        (Some(median), Some(worst)) => format!("{} / {}", show(*median), show(*worst)),
        _ => "-".to_owned(),
    }
}

fn rate(amount: u64, load: &Load) -> f64 {
    amount as f64 / load.member_seconds.max(f64::EPSILON)
}

fn traffic(load: &Load) -> String {
    let traffic = load.traffic;
    let calls = if traffic.calls == 0 { String::new() } else { format!(" + {:.0}", rate(traffic.call_bytes, load)) };
    format!("{:.1}; {:.0}{calls}", rate(traffic.datagrams, load), rate(traffic.datagram_bytes, load))
}

fn mistakes(mistakes: Mistakes) -> String {
    format!("{} ({}) / {}", mistakes.seen, mistakes.by_healthy, mistakes.raised)
}

fn what(trouble: Trouble) -> String {
    match trouble {
        Trouble::Blocked(count) => format!("{count} blocked"),
        Trouble::Late(count) => format!("{count} late"),
        Trouble::Stopped(count) => format!("{count} stopped"),
        Trouble::Lossy(loss) => format!("{:.0} % lost", loss * 100.0),
    }
}

/// What is judged by the promise: blocked and late together.
fn pooled(found: &Found) -> Load {
    let mut pooled = Load::default();
    for (at, trouble) in troubles().into_iter().enumerate() {
        if let (Trouble::Blocked(_) | Trouble::Late(_), Some(load)) = (trouble, found.troubles.get(&at)) {
            pooled.pool(load);
        }
    }
    pooled
}

struct Table<'a> {
    columns: &'a [Column],
    found: &'a BTreeMap<Column, Found>,
    rows: Vec<Vec<String>>,
}

impl Table<'_> {
    fn row(&mut self, what: String, cell: impl Fn(&Found) -> Option<String>) {
        let cells = self.columns.iter().map(|column| {
            let cell = self.found.get(column).and_then(&cell);
            cell.unwrap_or_else(|| "-".to_owned())
        });
        let cells: Vec<String> = std::iter::once(what).chain(cells).collect();
        self.rows.push(cells);
    }

    fn life(&mut self, what: String, nodes: usize, cell: impl Fn(&Life) -> String) {
        self.row(what, |found| found.lives.get(&nodes).map(&cell));
    }

    fn print(&self) {
        let width = |at: usize| self.rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..=self.columns.len()).map(width).collect();
        for (number, row) in self.rows.iter().enumerate() {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            println!("| {} |", cells.join(" | "));
            if number == 0 {
                let lines: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
                println!("| {} |", lines.join(" | "));
            }
        }
    }
}

/// Prints what was found.
pub(crate) fn print(columns: &[Column], found: &BTreeMap<Column, Found>, sizes: &[usize]) {
    let mut table = Table { columns, found, rows: Vec::new() };
    let names = columns.iter().map(|column| column.name().to_owned());
    table.rows.push(std::iter::once(String::new()).chain(names).collect());
    for nodes in sizes {
        table.life(format!("{nodes} agree, s"), *nodes, |life| median_and_worst(&life.formations, FORMATION));
    }
    for nodes in sizes {
        let times = |life: &Life, which: fn(&crate::arena::Detection) -> Duration| {
            let times: Vec<_> = life.kills.iter().map(|kill| kill.as_ref().map(which)).collect();
            median_and_worst(&times, DETECTION)
        };
        table.life(format!("kill of 1 of {nodes} seen by the first, s"), *nodes, |life| times(life, |seen| seen.first));
        table.life("… by the last, s".to_owned(), *nodes, |life| times(life, |seen| seen.last));
    }
    for nodes in sizes {
        table.life(format!("quiet, {nodes}: msg/s; B/s + push-pull"), *nodes, |life| traffic(&life.quiet));
    }
    for (at, trouble) in troubles().into_iter().enumerate() {
        let load = |found: &Found| found.troubles.get(&at).copied();
        table.row(format!("{}: false positives", what(trouble)), |found| load(found).map(|l| mistakes(l.mistakes)));
        table.row("… msg/s; B/s + push-pull".to_owned(), |found| load(found).map(|load| traffic(&load)));
        if matches!(trouble, Trouble::Lossy(_)) {
            table.row("… needless rejoins".to_owned(), |found| load(found).map(|l| l.mistakes.rejoins.to_string()));
        }
    }
    if let Some(swim) = found.get(&Column::Swim).map(pooled) {
        let percent = |part: f64, whole: f64| format!("{:.2} %", 100.0 * part / whole.max(f64::EPSILON));
        table.row("pooled: false positives".to_owned(), |found| Some(mistakes(pooled(found).mistakes)));
        table.row("… of SWIM's".to_owned(), |found| {
            Some(percent(pooled(found).mistakes.seen as f64, swim.mistakes.seen as f64))
        });
        table.row("… of SWIM's, by healthy members".to_owned(), |found| {
            Some(percent(pooled(found).mistakes.by_healthy as f64, swim.mistakes.by_healthy as f64))
        });
        table.row("… messages, of SWIM's".to_owned(), |found| {
            let own = pooled(found);
            Some(percent(rate(own.traffic.datagrams, &own), rate(swim.traffic.datagrams, &swim)))
        });
    }
    table.print();
    println!("{NOTES}");
}
