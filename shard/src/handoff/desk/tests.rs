use super::*;
use crate::epoch::tests::{boot, epoch};
use crate::handoff::{BudgetConfig, MAX_CHUNK_BYTES};

const SHARD: ShardId = ShardId(0);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn desk(me: &str, config: HandoffConfig) -> Desk {
    Desk::new(boot(me), ShardCount::new(8).expect("valid"), config)
}

fn claim(shard: u32) -> Claim {
    Claim { shard: ShardId(shard), epoch: epoch("4a1") }
}

fn steps(desk: &mut Desk) -> Vec<Step> {
    std::iter::from_fn(|| desk.poll_step()).collect()
}

/// Two desks, and a source whose chunks are of ten bytes.
struct Pair {
    a: Desk,
    b: Desk,
    now: Duration,
    /// What the receiver was told, in short words.
    log: Vec<String>,
    /// Messages that are lost: the kinds, in short words.
    lost: Vec<&'static str>,
    changes: u32,
    installs: bool,
}

impl Pair {
    fn new(config: HandoffConfig) -> Self {
        let (a, b) = (desk("a1", config), desk("b1", config));
        Self { a, b, now: ms(0), log: Vec::new(), lost: Vec::new(), changes: 0, installs: true }
    }

    fn pass(&mut self, from_a: bool, message: HandoffMessage) {
        let kind = match &message {
            HandoffMessage::Ask(_, Ask::Prepare { .. }) => "prepare",
            HandoffMessage::Ask(_, Ask::Chunk { .. }) => "chunk",
            HandoffMessage::Ask(_, Ask::Install { .. }) => "install",
            HandoffMessage::Ask(_, Ask::Release) => "release",
            HandoffMessage::Ask(_, Ask::Cancel) => "cancel",
            HandoffMessage::Tell(_, Tell::Have { .. }) => "have",
            HandoffMessage::Tell(_, Tell::Installing) => "installing",
            HandoffMessage::Tell(_, Tell::Installed) => "installed",
            HandoffMessage::Tell(_, Tell::Taken) => "taken",
            HandoffMessage::Tell(_, Tell::Refused(_)) => "refused",
        };
        if let Some(at) = self.lost.iter().position(|lost| *lost == kind) {
            self.lost.remove(at);
            return;
        }
        let (to, from) = if from_a { (&mut self.b, "a1") } else { (&mut self.a, "b1") };
        to.handle_message(self.now, &boot(from), message, &Claims::new());
    }

    /// Carries all out that can be done now, with two chunks of ten bytes in the source.
    fn run(&mut self) {
        loop {
            if let Some(step) = self.a.poll_step() {
                match step {
                    Step::Send { message, .. } => self.pass(true, message),
                    Step::Open(id) => self.a.handle_opened(self.now, &id, 2, 20),
                    Step::Read { id, index } => {
                        self.a.handle_chunk(self.now, &id, index, Blob(vec![index as u8; 10].into()));
                    }
                    Step::CatchUp(id) => {
                        self.log.push("caught up".to_owned());
                        let changes = self.changes.saturating_sub(1);
                        self.changes = 1;
                        self.a.handle_changes(self.now, &id, changes, u64::from(changes) * 10);
                    }
                    Step::Pause(id) => {
                        self.log.push("paused".to_owned());
                        let changes = self.changes;
                        self.a.handle_changes(self.now, &id, changes, u64::from(changes) * 10);
                    }
                    Step::Acknowledged { id, .. } => {
                        self.log.push("acknowledged".to_owned());
                        self.a.handle_let_go(self.now, &id);
                    }
                    step => self.log.push(short(&step)),
                }
            } else if let Some(step) = self.b.poll_step() {
                match step {
                    Step::Send { message, .. } => self.pass(false, message),
                    Step::Stage { index, bytes, .. } => {
                        assert_eq!(bytes.0[..], vec![index as u8; 10][..]);
                        self.log.push(format!("stage {index}"));
                    }
                    Step::Install(id) => {
                        self.log.push("install".to_owned());
                        if self.installs {
                            self.b.handle_installed(self.now, &id, true);
                        }
                    }
                    step => self.log.push(short(&step)),
                }
            } else {
                break;
            }
        }
    }

    fn begin(&mut self) {
        self.a.begin(self.now, claim(0), boot("b1"));
        self.run();
    }

    /// Goes on until `until`, from one timeout to the next.
    fn go(&mut self, until: u64) {
        while let Some(due) = self.a.poll_timeout().into_iter().chain(self.b.poll_timeout()).min() {
            if due > ms(until) {
                break;
            }
            assert!(due >= self.now || self.now == ms(0), "timeouts lie ahead: {due:?} at {:?}", self.now);
            self.now = self.now.max(due);
            self.a.handle_timeout(self.now);
            self.b.handle_timeout(self.now);
            self.run();
        }
        self.now = ms(until);
    }

    fn log(&self) -> String {
        self.log.join(", ")
    }
}

fn short(step: &Step) -> String {
    match step {
        Step::Resume(_) => "resumed".to_owned(),
        Step::Close(_) => "closed".to_owned(),
        Step::Failed { error, .. } => format!("failed: {error}"),
        Step::NotTaken(_) => "not taken".to_owned(),
        Step::Discard(_) => "discarded".to_owned(),
        Step::Received(_) => "received".to_owned(),
        Step::Alarm(stuck) => format!("stuck for {}", stuck.waits_for),
        other => format!("{other:?}"),
    }
}

fn superseded(desk: &mut Desk, now: Duration) {
    let claims = Claims::from_iter([Claim { shard: SHARD, epoch: epoch("5b1") }]);
    desk.handle_claim(now, SHARD, &claims);
}

const WHOLE: &str = "stage 0, stage 1, paused, install, acknowledged, received";

#[test]
fn a_handoff_acknowledges_after_install_and_releases_after_that() {
    let mut pair = Pair::new(HandoffConfig::default());
    pair.begin();
    assert_eq!(pair.log(), WHOLE);
    let progress: Vec<_> = pair.a.progress(SHARD).collect();
    assert_eq!((progress[0].chunks, progress[0].bytes), ((2, 2), (20, 20)));
    assert_eq!(progress[0].waits_for, WaitsFor::Claim);
    superseded(&mut pair.a, ms(1));
    superseded(&mut pair.b, ms(1));
    pair.run();
    assert_eq!(pair.log(), format!("{WHOLE}, closed"));
    assert_eq!(pair.a.all().count() + pair.b.all().count(), 0);
    assert_eq!((pair.a.poll_timeout(), pair.b.poll_timeout()), (None, None));
}

#[test]
fn what_changed_meanwhile_follows_while_the_shard_is_paused() {
    let mut pair = Pair::new(HandoffConfig::default());
    pair.changes = 2;
    pair.begin();
    assert_eq!(pair.log(), "stage 0, stage 1, paused, stage 2, stage 3, install, acknowledged, received");
}

#[test]
fn an_owner_catches_up_before_it_pauses() {
    let mut pair = Pair::new(HandoffConfig { window: 1, ..HandoffConfig::default() });
    pair.changes = 2;
    pair.begin();
    let all = "stage 0, stage 1, caught up, stage 2, paused, stage 3, install, acknowledged, received";
    assert_eq!(pair.log(), all);
}

#[test]
fn nothing_waits_for_the_budget_while_the_shard_is_paused() {
    // A byte a second: the two chunks that were there take ten seconds after the burst.
    let budget = BudgetConfig { bytes_per_second: 1, share_percent: 100, least: 1, burst: 1 };
    let mut pair = Pair::new(HandoffConfig { budget, ..HandoffConfig::default() });
    pair.changes = 4;
    pair.begin();
    pair.go(9_500);
    let all = "stage 0, stage 1, paused, stage 2, stage 3, stage 4, stage 5, install, acknowledged, received";
    assert_eq!(pair.log(), all);
}

#[test]
fn every_message_may_be_lost() {
    for lost in ["prepare", "chunk", "install", "release", "have", "installing", "installed", "taken"] {
        let mut pair = Pair::new(HandoffConfig::default());
        // The first of these is said only once.
        pair.lost = if lost == "installing" { vec![lost] } else { vec![lost, lost] };
        pair.begin();
        pair.go(4_000);
        assert_eq!(pair.log(), WHOLE, "{lost}");
        assert!(pair.lost.is_empty(), "{lost}");
    }
}

#[test]
fn the_last_message_that_is_lost_leaves_no_loop() {
    let mut pair = Pair::new(HandoffConfig::default());
    pair.begin();
    // Both sides end it; what is still under way is answered once at most.
    superseded(&mut pair.a, ms(1));
    let id = HandoffId { claim: claim(0), attempt: 1 };
    pair.a.handle_message(ms(1), &boot("b1"), HandoffMessage::Tell(id, Tell::Installed), &Claims::new());
    pair.run();
    assert_eq!(pair.b.all().count(), 1, "what is taken is not cancelled");
}

#[test]
fn an_owner_that_has_paused_for_too_long_goes_on() {
    let mut pair = Pair::new(HandoffConfig::default());
    pair.installs = false;
    pair.begin();
    pair.go(1_999);
    assert_eq!(pair.log(), "stage 0, stage 1, paused, install");
    pair.go(2_000);
    assert_eq!(
        pair.log(),
        "stage 0, stage 1, paused, install, resumed, closed, failed: it was not installed in time, discarded"
    );
    assert_eq!(pair.b.all().count(), 0);
}

#[test]
fn it_can_be_cancelled_until_it_is_let_go() {
    let mut pair = Pair::new(HandoffConfig::default());
    pair.installs = false;
    pair.begin();
    pair.a.cancel(pair.now, &claim(0));
    pair.run();
    assert_eq!(pair.log(), "stage 0, stage 1, paused, install, resumed, closed, discarded");
    let mut pair = Pair::new(HandoffConfig::default());
    pair.begin();
    pair.a.cancel(pair.now, &claim(0));
    pair.run();
    assert_eq!(pair.log(), WHOLE, "too late");
}

#[test]
fn a_cancel_that_was_lost_is_said_again_when_the_receiver_speaks() {
    let mut pair = Pair::new(HandoffConfig::default());
    pair.lost = vec!["cancel"];
    pair.installs = false;
    pair.begin();
    pair.a.cancel(pair.now, &claim(0));
    pair.run();
    assert_eq!(pair.b.all().count(), 1);
    let id = HandoffId { claim: claim(0), attempt: 1 };
    pair.b.handle_installed(pair.now, &id, true);
    pair.run();
    assert_eq!(pair.b.all().count(), 0);
}

#[test]
fn a_receiver_that_cannot_install_says_so() {
    let mut pair = Pair::new(HandoffConfig::default());
    pair.installs = false;
    pair.begin();
    let id = HandoffId { claim: claim(0), attempt: 1 };
    pair.b.handle_installed(pair.now, &id, false);
    pair.run();
    assert!(
        pair.log()
            .ends_with("discarded, resumed, closed, failed: the receiver refused: it could not install the state")
    );
}

#[test]
fn a_release_of_what_is_not_known_is_not_taken() {
    let mut pair = Pair::new(HandoffConfig::default());
    pair.lost = vec!["release"];
    pair.begin();
    pair.b = desk("b1", HandoffConfig::default());
    pair.go(1_000);
    assert!(pair.log().ends_with("acknowledged, closed, not taken"), "{}", pair.log());
}

#[test]
fn a_greater_epoch_ends_both_sides() {
    let mut pair = Pair::new(HandoffConfig::default());
    pair.installs = false;
    pair.begin();
    superseded(&mut pair.a, ms(1));
    superseded(&mut pair.b, ms(1));
    pair.run();
    assert_eq!(pair.log(), "stage 0, stage 1, paused, install, resumed, closed, discarded");
    let known = Claims::from_iter([Claim { shard: SHARD, epoch: epoch("5c1") }]);
    let id = HandoffId { claim: claim(0), attempt: 9 };
    let ask = HandoffMessage::Ask(id.clone(), Ask::Prepare { chunks: 0, bytes: 0 });
    pair.b.handle_message(ms(2), &boot("a1"), ask, &known);
    let refused = HandoffMessage::Tell(id, Tell::Refused(Refusal::Superseded(epoch("5c1"))));
    assert_eq!(steps(&mut pair.b), [Step::Send { to: boot("a1"), message: refused }]);
}

#[test]
fn a_later_attempt_takes_the_place_of_an_earlier_one_and_not_the_other_way() {
    let mut b = desk("b1", HandoffConfig::default());
    let ask =
        |attempt| HandoffMessage::Ask(HandoffId { claim: claim(0), attempt }, Ask::Prepare { chunks: 1, bytes: 1 });
    b.handle_message(ms(0), &boot("a1"), ask(2), &Claims::new());
    b.handle_message(ms(0), &boot("a1"), ask(1), &Claims::new());
    b.handle_message(ms(0), &boot("a1"), ask(3), &Claims::new());
    let told: Vec<_> = steps(&mut b)
        .into_iter()
        .map(|step| match step {
            Step::Send { message: HandoffMessage::Tell(id, tell), .. } => format!("{} {tell:?}", id.attempt),
            step => short(&step),
        })
        .collect();
    assert_eq!(told, ["2 Have { next: 0 }", "1 Refused(Unknown)", "discarded", "3 Have { next: 0 }"]);
}

#[test]
fn only_so_many_are_under_way_and_the_rest_waits_its_turn() {
    let mut a = desk("a1", HandoffConfig { sending: 2, ..HandoffConfig::default() });
    for shard in 0..4 {
        a.begin(ms(0), claim(shard), boot("b1"));
    }
    a.begin(ms(0), claim(3), boot("c1"));
    let waits: Vec<_> = a.all().map(|progress| (progress.id.claim.shard.0, progress.waits_for)).collect();
    assert_eq!(waits, [(0, WaitsFor::Source), (1, WaitsFor::Source), (2, WaitsFor::Turn), (3, WaitsFor::Turn)]);
    a.cancel(ms(0), &claim(0));
    assert_eq!(a.progress(ShardId(2)).next().map(|progress| progress.waits_for), Some(WaitsFor::Source));
    let mut b = desk("b1", HandoffConfig { receiving: 2, ..HandoffConfig::default() });
    for shard in 0..3 {
        let id = HandoffId { claim: claim(shard), attempt: 1 };
        let ask = HandoffMessage::Ask(id, Ask::Prepare { chunks: 1, bytes: 1 });
        b.handle_message(ms(0), &boot("a1"), ask, &Claims::new());
    }
    let last = steps(&mut b).pop();
    assert!(matches!(last, Some(Step::Send { message: HandoffMessage::Tell(_, Tell::Refused(Refusal::Busy)), .. })));
}

#[test]
fn a_busy_receiver_is_asked_again_and_alarms_name_the_reason() {
    let mut pair = Pair::new(HandoffConfig { receiving: 1, ..HandoffConfig::default() });
    let other = HandoffId { claim: claim(5), attempt: 1 };
    let ask = HandoffMessage::Ask(other.clone(), Ask::Prepare { chunks: 1, bytes: 1 });
    pair.b.handle_message(ms(0), &boot("a1"), ask, &Claims::new());
    steps(&mut pair.b);
    pair.begin();
    pair.go(12_000);
    assert_eq!(pair.log(), "stuck for the receiver to take it: it takes as many shards as it has room for");
    let stuck: Vec<_> = pair.a.stuck(pair.now).collect();
    assert_eq!((stuck.len(), stuck[0].since), (1, ms(0)));
    pair.b.handle_message(pair.now, &boot("a1"), HandoffMessage::Ask(other, Ask::Cancel), &Claims::new());
    pair.go(13_000);
    assert!(pair.log().ends_with("received"), "{}", pair.log());
    assert_eq!(pair.a.stuck(pair.now).count(), 0);
}

#[test]
fn a_receiver_drops_what_its_sender_has_forgotten() {
    let mut pair = Pair::new(HandoffConfig::default());
    pair.lost = vec!["chunk"; 100];
    pair.begin();
    pair.a = desk("a1", HandoffConfig::default());
    pair.go(59_000);
    assert_eq!(pair.b.all().count(), 1);
    pair.go(61_000);
    assert_eq!((pair.b.all().count(), pair.log()), (0, "discarded".to_owned()));
}

#[test]
fn the_budget_is_kept() {
    // A chunk of ten bytes each second, after a burst of one.
    let budget = BudgetConfig { bytes_per_second: 10, share_percent: 100, least: 1, burst: 1 };
    let mut pair = Pair::new(HandoffConfig { budget, ..HandoffConfig::default() });
    pair.begin();
    assert_eq!(pair.log(), "stage 0");
    assert_eq!(pair.a.progress(SHARD).next().map(|progress| progress.waits_for), Some(WaitsFor::Budget));
    pair.go(899);
    assert_eq!(pair.log(), "stage 0");
    pair.go(950);
    assert_eq!(pair.log(), WHOLE);
    assert_eq!(pair.a.spent(), 20);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let chunk = |index, bytes| Ask::Chunk { index, bytes: Blob(vec![0; bytes].into()) };
    let mut b = desk("b1", HandoffConfig::default());
    let mut ask = |shard, from: &str, ask| {
        let id = HandoffId { claim: claim(shard), attempt: 1 };
        b.handle_message(ms(0), &boot(from), HandoffMessage::Ask(id, ask), &Claims::new());
        match steps(&mut b).pop() {
            Some(Step::Send { message: HandoffMessage::Tell(_, tell), .. }) => Some(tell),
            _ => None,
        }
    };
    let prepare = |chunks, bytes| Ask::Prepare { chunks, bytes };
    let malformed = Some(Tell::Refused(Refusal::Malformed));
    assert_eq!(ask(0, "c1", prepare(1, 1)), malformed, "another than the owner");
    assert_eq!(ask(8, "a1", prepare(1, 1)), malformed, "no such shard");
    assert_eq!(ask(0, "a1", prepare(1, MAX_CHUNK_BYTES as u64 + 1)), malformed);
    assert_eq!(ask(0, "a1", prepare(u32::MAX, 1)), malformed);
    assert_eq!(ask(0, "a1", chunk(0, 1)), Some(Tell::Refused(Refusal::Unknown)));
    assert_eq!(ask(0, "a1", prepare(1, 1)), Some(Tell::Have { next: 0 }));
    assert_eq!(ask(0, "a1", chunk(7, 1)), Some(Tell::Have { next: 0 }));
    assert_eq!(ask(0, "a1", chunk(0, MAX_CHUNK_BYTES + 1)), malformed);
    assert_eq!(ask(0, "a1", prepare(1, 1)), Some(Tell::Have { next: 0 }));
    assert_eq!(ask(0, "a1", chunk(0, 1)), Some(Tell::Have { next: 1 }));
    assert_eq!(ask(0, "a1", Ask::Install { chunks: 1, bytes: 2 }), malformed, "not what was sent");
    assert_eq!(ask(0, "a1", Ask::Cancel), None);
}

#[test]
fn a_receiver_keeps_so_much_and_no_more_whatever_it_was_told_before() {
    let mut b = desk("b1", HandoffConfig { staged: 20, ..HandoffConfig::default() });
    let id = |attempt| HandoffId { claim: claim(0), attempt };
    let mut ask = |attempt, ask| {
        b.handle_message(ms(0), &boot("a1"), HandoffMessage::Ask(id(attempt), ask), &Claims::new());
        steps(&mut b).iter().map(short).collect::<Vec<_>>()
    };
    let chunk = |index| Ask::Chunk { index, bytes: Blob(vec![0; 10].into()) };
    let refused = ask(1, Ask::Prepare { chunks: 1, bytes: 21 });
    assert!(refused[0].contains("TooLarge"), "{refused:?}");
    ask(2, Ask::Prepare { chunks: 1, bytes: 10 });
    assert!(ask(2, chunk(0)).iter().chain(&ask(2, chunk(1))).all(|step| !step.contains("TooLarge")));
    let ended = ask(2, chunk(2));
    assert!(
        ended.iter().any(|step| step.contains("TooLarge")) && ended.iter().any(|step| step.contains("discard")),
        "{ended:?}"
    );
}

#[test]
fn a_receiver_that_is_not_ready_is_asked_again_and_holds_up_nobody_else() {
    let mut pair = Pair::new(HandoffConfig { sending: 1, ..HandoffConfig::default() });
    pair.b.handle_ready(SHARD, false);
    pair.b.handle_ready(ShardId(8), false); // there is no such shard
    pair.begin();
    pair.a.begin(pair.now, claim(1), boot("b1"));
    pair.run();
    assert_eq!(pair.log(), WHOLE, "the other shard moves");
    let taken = Claims::from_iter([Claim { shard: ShardId(1), epoch: epoch("5b1") }]);
    pair.a.handle_claim(pair.now, ShardId(1), &taken);
    pair.run();
    pair.log.clear();
    pair.go(12_000);
    assert_eq!(pair.log(), "stuck for the receiver to take it: what else belongs to the shard is not there yet");
    pair.b.handle_ready(SHARD, true);
    pair.go(12_500);
    assert!(pair.log().ends_with(WHOLE), "{}", pair.log());
    assert_eq!(pair.a.stuck(pair.now).count(), 0);
}

#[test]
fn attempts_that_fail_one_after_the_other_alarm_once() {
    let mut pair = Pair::new(HandoffConfig::default());
    pair.installs = false;
    for _ in 0..5 {
        // Each of them takes two seconds, and the owner begins the next at once.
        pair.begin();
        pair.go(pair.now.as_millis() as u64 + 2_000);
    }
    let alarms = |pair: &Pair| pair.log.iter().filter(|line| line.starts_with("stuck")).count();
    pair.begin();
    pair.go(10_000);
    pair.go(11_000);
    assert_eq!(alarms(&pair), 1, "{}", pair.log());
    assert_eq!(pair.a.stuck(pair.now).map(|stuck| stuck.since).collect::<Vec<_>>(), [ms(0)]);
    pair.go(12_000);
    pair.begin();
    pair.go(14_000);
    assert_eq!(alarms(&pair), 1, "it was reported");
    // To hand it to somebody else is another matter.
    pair.a.begin(pair.now, claim(0), boot("c1"));
    assert_eq!(pair.a.stuck(pair.now).count(), 0);
}

#[test]
fn one_that_waits_for_its_turn_alarms_too() {
    let mut a = desk("a1", HandoffConfig { sending: 1, ..HandoffConfig::default() });
    a.begin(ms(0), claim(0), boot("b1"));
    a.begin(ms(0), claim(1), boot("b1"));
    steps(&mut a);
    assert_eq!(a.poll_timeout(), Some(ms(10_000)));
    a.handle_timeout(ms(10_000));
    let alarms: Vec<_> = steps(&mut a).iter().map(short).collect();
    assert_eq!(alarms, ["stuck for its turn", "stuck for the state to be read"]);
    assert_eq!((a.poll_timeout(), a.stuck(ms(10_000)).count()), (None, 2));
    a.handle_timeout(ms(20_000));
    assert_eq!(steps(&mut a), [], "once");
}
