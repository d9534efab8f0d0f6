//! A band of the timeline: rows under each other, each with its name on the left.

use std::time::Duration;

use super::svg::{Drawing, Lanes, Scale, text_width};

/// How wide the names of the rows are.
pub(super) const NAMES: f64 = 112.0;
/// How many elements a band may have.
const ROOM: usize = 20_000;
/// How high a lane of labelled bars is.
const LANE: f64 = 16.0;
/// From a row to the next.
const SPACE: f64 = 3.0;

/// A bar or a mark with a label, and what it means in full.
pub(super) struct Labelled {
    pub(super) class: &'static str,
    /// A shape instead of a bar.
    pub(super) shape: Option<&'static str>,
    pub(super) span: (Duration, Duration),
    pub(super) label: String,
    pub(super) title: String,
}

/// See the [module](self).
pub(super) struct Band {
    pub(super) scale: Scale,
    pub(super) drawing: Drawing,
    names: Drawing,
    height: f64,
}

impl Band {
    /// An empty band under this name.
    pub(super) fn new(scale: Scale, name: &str) -> Self {
        let mut names = Drawing::new(ROOM);
        names.text("host", (0.0, 6.0), 15.0, name);
        Self { scale, drawing: Drawing::new(ROOM), names, height: SPACE }
    }

    /// Adds a row, and returns where it begins.
    pub(super) fn row(&mut self, class: &'static str, name: &str, height: f64) -> f64 {
        let y = self.height;
        self.names.text(class, (NAMES, -6.0), y + height.min(LANE) / 2.0 + 4.0, name);
        self.height += height + SPACE;
        y
    }

    /// A row of bars and marks with labels, beneath each other where they would overlap. Nothing if there are none.
    pub(super) fn labelled(&mut self, name: &str, most_lanes: usize, mut items: Vec<Labelled>) {
        if items.is_empty() {
            return;
        }
        items.sort_by_key(|item| item.span.0);
        let mut lanes = Lanes::new(most_lanes);
        let placed: Vec<_> = items
            .into_iter()
            .map(|item| {
                let (from, to) = (self.scale.x(item.span.0), self.scale.x(item.span.1));
                let indent = if item.shape.is_some() { 8.0 } else { 4.0 };
                let lane = lanes.place(from, to.max(from + indent + text_width(&item.label) + 6.0));
                (item, (from, to), indent, lane)
            })
            .collect();
        let top = self.row("row", name, lanes.count() as f64 * LANE);
        for (item, (from, to), indent, (lane, is_free)) in placed {
            let y = top + lane as f64 * LANE;
            match item.shape {
                Some(shape) => self.drawing.mark(item.class, shape, from, y + LANE / 2.0, &item.title),
                None => self.drawing.bar(item.class, (from, to), (y, LANE - 2.0), &item.title),
            }
            if is_free {
                self.drawing.text("label", (from, indent), y + LANE - 5.0, &item.label);
            }
        }
    }

    /// The band as an element of the page, and how many elements there was no room for.
    pub(super) fn finish(self, id: &str) -> (String, usize) {
        let height = self.height.max(20.0);
        let omitted = self.drawing.omitted();
        let names = self.names.finish("names", NAMES, height);
        let body = self.drawing.finish("body", self.scale.width(), height);
        (format!("<div class=\"band\" id=\"{id}\">{names}{body}</div>\n"), omitted)
    }
}
