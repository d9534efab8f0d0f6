//! Which faults meet which: what a range of seeds covers, told from the cases without running them.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use crate::case::Case;
use crate::fault::classes;
use crate::scenario::Scenario;

/// How many runs each class and each pair of classes is in. A pair is in a run if the two lasted at the same moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// How many cases were looked at.
    pub runs: u64,
    classes: BTreeMap<&'static str, u64>,
    pairs: BTreeMap<(&'static str, &'static str), u64>,
}

impl Coverage {
    /// What these seeds of these scenarios cover.
    #[must_use]
    pub fn of(scenarios: &[Scenario], seeds: Range<u64>) -> Self {
        let mut coverage = Self::default();
        for seed in seeds {
            for scenario in scenarios {
                coverage.add(&scenario.case(seed));
            }
        }
        coverage
    }

    fn add(&mut self, case: &Case) {
        self.runs += 1;
        let (mut classes, mut pairs) = (BTreeMap::new(), BTreeMap::new());
        for act in &case.acts {
            for (i, a) in act.faults.iter().enumerate() {
                classes.insert(a.fault.class(), ());
                for b in act.faults[..i].iter().filter(|b| a.from < b.to() && b.from < a.to()) {
                    if let Some(pair) = pair(a.fault.class(), b.fault.class()) {
                        pairs.insert(pair, ());
                    }
                }
            }
        }
        classes.into_keys().for_each(|class| *self.classes.entry(class).or_default() += 1);
        pairs.into_keys().for_each(|pair| *self.pairs.entry(pair).or_default() += 1);
    }

    /// All pairs of different classes, and in how many runs each was.
    pub fn pairs(&self) -> impl Iterator<Item = ((&'static str, &'static str), u64)> {
        let names: Vec<&'static str> = classes().map(|class| class.name).collect();
        let all = (0..names.len()).flat_map(move |a| {
            (0..a).map({
                let names = names.clone();
                move |b| (names[a], names[b])
            })
        });
        all.filter_map(|(a, b)| pair(a, b)).map(|pair| (pair, self.pairs.get(&pair).copied().unwrap_or(0)))
    }
}

/// The two in order; `None` if they are the same.
fn pair(a: &'static str, b: &'static str) -> Option<(&'static str, &'static str)> {
    (a != b).then(|| (a.min(b), a.max(b)))
}

impl fmt::Display for Coverage {
    /// A triangle of numbers, each class a row and a column.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = classes().map(|class| class.name).collect();
        let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
        let digits = self.classes.values().max().map_or(1, |most| most.to_string().len()).max(2) + 1;
        write!(f, "{:>3} {:width$} {:>digits$}", "", "class", "all")?;
        (1..names.len()).try_for_each(|column| write!(f, "{column:>digits$}"))?;
        writeln!(f)?;
        for (row, name) in names.iter().enumerate() {
            let all = self.classes.get(name).copied().unwrap_or(0);
            write!(f, "{:>3} {name:width$} {all:>digits$}", row + 1)?;
            for other in &names[..row] {
                let met = self.pairs.get(&(*name.min(other), *name.max(other))).copied().unwrap_or(0);
                write!(f, "{met:>digits$}")?;
            }
            writeln!(f)?;
        }
        let missing: Vec<String> =
            self.pairs().filter(|(_, met)| *met == 0).map(|((a, b), _)| format!("{a} and {b}")).collect();
        let (all, least) = (self.pairs().count(), self.pairs().map(|(_, met)| met).min().unwrap_or(0));
        write!(
            f,
            "coverage: runs={} classes={} pairs={} of {all} least={least}",
            self.runs,
            names.len(),
            all - missing.len()
        )?;
        if missing.is_empty() { Ok(()) } else { write!(f, "\nnever together: {}", missing.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario;

    #[test]
    fn a_thousand_seeds_cover_every_pair() {
        for name in ["pairs", "mix"] {
            let coverage = Coverage::of(&[scenario::find(name).expect("it is there")], 0..1000);
            let missing: Vec<_> = coverage.pairs().filter(|(_, met)| *met == 0).collect();
            assert!(missing.is_empty(), "{name}: {missing:?}");
        }
    }

    #[test]
    fn every_class_alone_is_covered_too() {
        let coverage = Coverage::of(&[scenario::find("alone").expect("it is there")], 0..classes().count() as u64);
        assert_eq!(coverage.classes.len(), classes().count());
        assert!(coverage.pairs.is_empty());
    }
}
