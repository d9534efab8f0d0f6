//! What goes wrong: partitions, crashes, restarts, pauses, drains, leaves, joins, doubts.

use std::time::Duration;

use super::{Event, World, ms};

impl World {
    pub(crate) fn chaos(&mut self) {
        if self.now >= self.chaos_until {
            self.heal();
            return;
        }
        self.quiet_since = self.quiet_since.max(self.now);
        let at = self.dice.below(self.nodes.len() as u64) as usize;
        let others_alive = self.nodes.iter().enumerate().filter(|(other, node)| *other != at && node.is_alive());
        // If all were lost at once, what they knew would be lost, too.
        let may_stop = others_alive.filter(|(_, node)| node.steward().core().has_learned()).count() > 0;
        let is_alive = self.nodes[at].is_alive();
        match self.dice.below(10) {
            0 | 1 => {
                let sides = 2 + self.dice.below(2);
                for side in &mut self.side {
                    *side = (self.dice.below(sides)) as u8;
                }
                log!(self, "sides: {:?}", self.side);
            }
            2 => {
                self.side.fill(0);
                log!(self, "no partition");
            }
            3 | 4 if is_alive && may_stop => self.stop(at),
            3..=5 if !is_alive => self.start(at),
            5 | 6 if is_alive => {
                let pause = 200 + self.dice.below(8_000);
                self.nodes[at].paused_until = self.now + ms(pause);
                self.quiet_since = self.quiet_since.max(self.now + ms(pause));
                log!(self, "n{at} pauses for {pause} ms");
            }
            7 if is_alive => {
                self.nodes[at].is_draining = !self.nodes[at].is_draining;
                log!(self, "n{at} drains: {}", self.nodes[at].is_draining);
            }
            8 if is_alive && may_stop && self.nodes[at].is_draining => self.stop(at),
            8 | 9 if is_alive => {
                let (other, until) = (self.dice.below(self.nodes.len() as u64) as usize, 500 + self.dice.below(4_000));
                // A node that starts is told of all that are there.
                if other != at && self.nodes[at].steward().core().has_learned() {
                    self.nodes[at].doubts.insert(other, self.now + ms(until));
                    self.quiet_since = self.quiet_since.max(self.now + ms(until));
                    log!(self, "n{at} takes n{other} for down for {until} ms");
                }
            }
            _ => {}
        }
        self.judge.connections(self.now, &self.side, &self.nodes);
        let calm = if self.dice.chance(20) { 9_000 } else { 0 };
        let delay = 50 + self.dice.below(2_500) + calm;
        self.after(ms(delay), Event::Chaos);
    }

    fn stop(&mut self, at: usize) {
        log!(self, "n{at} stops");
        self.nodes[at].steward = None;
        self.nodes[at].view.clear();
    }

    /// Everything is in order from now on. Whoever drains is left so, if another does not.
    fn heal(&mut self) {
        log!(self, "healed");
        self.side.fill(0);
        self.loss_percent = 0;
        // Pauses that have begun end in their own time.
        self.quiet_since = self.nodes.iter().map(|node| node.paused_until).fold(self.now, Duration::max);
        self.nodes.iter_mut().for_each(|node| node.doubts.clear());
        for at in 0..self.nodes.len() {
            if !self.nodes[at].is_alive() && self.dice.chance(50) {
                self.start(at);
            }
        }
        if self.nodes.iter().all(|node| node.is_draining || !node.is_alive()) {
            self.nodes.iter_mut().for_each(|node| node.is_draining = false);
        }
        self.judge.connections(self.now, &self.side, &self.nodes);
    }
}
