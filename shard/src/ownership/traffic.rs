//! What the node sends beside its handoffs, by which their share is reckoned. Pure.

/// What was sent when that was looked at last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    /// By the whole node, as its transport counts it.
    sent: u64,
    /// By handoffs, as they pay for it: when they read it, which is before the transport counts it.
    spent: u64,
    /// What handoffs have paid for and the transport may not have counted yet.
    ahead: u64,
}

impl Traffic {
    /// Counts from now on: the node has sent so many bytes by now.
    pub(super) fn new(sent: u64) -> Self {
        Self { sent, ..Self::default() }
    }

    /// The node has sent, and handoffs have paid for, so many bytes by now. Returns what others have sent since this was last
    /// asked. What a handoff pays for and never sends hides as many bytes of others.
    pub(super) fn look(&mut self, sent: u64, spent: u64) -> u64 {
        let fresh = sent.saturating_sub(self.sent);
        self.ahead = self.ahead.saturating_add(spent.saturating_sub(self.spent));
        (self.sent, self.spent) = (sent, spent);
        let others = fresh.saturating_sub(self.ahead);
        self.ahead = self.ahead.saturating_sub(fresh);
        others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_handoffs_send_is_not_what_others_send() {
        let mut traffic = Traffic::new(1_000);
        assert_eq!(traffic.look(1_500, 0), 500);
        assert_eq!(traffic.look(1_500, 300), 0, "paid for, and not sent yet");
        assert_eq!(traffic.look(1_700, 300), 0);
        assert_eq!(traffic.look(1_900, 300), 100, "the rest of it, and others");
        assert_eq!(traffic.look(2_900, 700), 600, "both at once");
        assert_eq!(traffic.look(2_900, 700), 0);
    }
}
