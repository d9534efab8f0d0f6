use super::*;
use crate::epoch::tests::{boot, epoch};
use crate::{Candidate, Placement, ReplicaCount};
use polity_cluster::NodeName;

const SHARD: ShardId = ShardId(0);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// These boots are up; shards belong to those whose names are not in `draining`, by placement.
fn sight(up: &str, draining: &str) -> Sight {
    let up: Vec<_> = up.split_whitespace().map(boot).collect();
    let draining: Vec<_> = draining.split_whitespace().map(|name| NodeName::new(name).expect("valid")).collect();
    let stay = up.iter().filter(|node| !draining.contains(&node.name));
    let candidates: Vec<_> = stay.map(|node| Candidate::new(node.name.clone())).collect();
    let shards = ShardCount::new(1).expect("valid");
    let placement = Placement::compute(&candidates, shards, ReplicaCount::default()).expect("distinct");
    Sight::new(up, draining, placement)
}

/// A machine of one shard that has learned.
fn core(me: &str, at: Sight) -> Core {
    let mut core = Core::new(boot(me), ShardCount::new(1).expect("valid"), ClaimConfig::default(), Fence::default());
    core.handle_sight(ms(0), at);
    core.handle_learned(ms(0));
    core
}

fn actions(core: &mut Core) -> Vec<Action> {
    std::iter::from_fn(|| core.poll_action()).collect()
}

fn claim(text: &str) -> Claim {
    Claim { shard: SHARD, epoch: epoch(text) }
}

/// Lets patience pass, grants an epoch, and returns the claim.
fn claims(core: &mut Core, now: u64) -> Claim {
    core.handle_timeout(ms(now));
    let [Action::Seek { shard, after }] = &actions(core)[..] else { panic!("it should seek") };
    let granted = Epoch::next(after.as_ref(), core.me()).expect("not the last");
    core.handle_epoch(ms(now), *shard, Ok(granted));
    let actions = actions(core);
    let Some(Action::Claim(claim)) = actions.first() else { panic!("it should claim: {actions:?}") };
    claim.clone()
}

/// The name that a shard of these belongs to, as a boot 1.
fn preferred(up: &str) -> String {
    sight(up, "").preferred(SHARD).expect("somebody").name.to_string() + "1"
}

/// Of `a1` and `b1`: first the one that does not get the shard when both are up, then the one that does.
fn other_and_first() -> (&'static str, &'static str) {
    if preferred("a1 b1") == "a1" { ("b1", "a1") } else { ("a1", "b1") }
}

#[test]
fn the_preferred_node_claims_what_nobody_owns_after_its_patience() {
    let mut core = core("a1", sight("a1", ""));
    assert_eq!(actions(&mut core), []);
    assert_eq!(core.poll_timeout(), Some(ms(500)));
    core.handle_timeout(ms(499));
    assert_eq!(actions(&mut core), []);
    assert_eq!(claims(&mut core, 500), claim("1a1"));
    assert_eq!(core.owns(SHARD), Some(&epoch("1a1")));
    assert_eq!(core.poll_timeout(), None);
}

#[test]
fn a_node_that_starts_waits_until_it_has_learned() {
    let mut core = Core::new(boot("a2"), ShardCount::new(1).expect("valid"), ClaimConfig::default(), Fence::default());
    core.handle_sight(ms(0), sight("a2", ""));
    core.handle_timeout(ms(9_000));
    assert_eq!(actions(&mut core), []);
    core.handle_claim(ms(9_000), claim("7a1"));
    core.handle_learned(ms(9_000));
    assert_eq!(claims(&mut core, 9_500), claim("8a2"), "above what its earlier life had");
}

#[test]
fn a_kept_fence_counts() {
    let fence = Fence::new(Claims::from_iter([claim("7b1")]));
    let mut core = Core::new(boot("a1"), ShardCount::new(1).expect("valid"), ClaimConfig::default(), fence);
    core.handle_sight(ms(0), sight("a1", ""));
    core.handle_learned(ms(0));
    assert_eq!(claims(&mut core, 500), claim("8a1"));
}

#[test]
fn an_owner_keeps_the_shard_until_the_handoff_is_acknowledged() {
    let (owner, first) = other_and_first();
    let mut core = core(owner, sight(owner, ""));
    let own = claims(&mut core, 500);
    core.handle_sight(ms(600), sight("a1 b1", ""));
    assert_eq!(actions(&mut core), [Action::HandOver { claim: own.clone(), to: boot(first) }]);
    assert!(core.owns(SHARD).is_some(), "it serves meanwhile");
    assert!(!core.handle_acknowledged(ms(700), &own, &boot("c1")), "who did not receive it cannot acknowledge it");
    assert!(core.handle_acknowledged(ms(700), &own, &boot(first)));
    assert_eq!(actions(&mut core), [Action::Release { claim: own.clone(), to: boot(first) }]);
    assert_eq!(core.owns(SHARD), None);
    let refused = core.fence().check(SHARD, &own.epoch).expect_err("let go");
    assert_eq!(refused.by.owner(), &boot(first));
    let next = Claim { shard: SHARD, epoch: Epoch::next(Some(&own.epoch), &boot(first)).expect("not the last") };
    core.handle_claim(ms(800), next.clone());
    assert_eq!(actions(&mut core), [Action::Superseded { claim: own, by: next.epoch }], "and no conflict");
}

#[test]
fn the_receiver_claims_when_the_owner_has_let_go_and_not_before() {
    let (owner, first) = other_and_first();
    let mut core = core(first, sight("a1 b1", ""));
    let own = Claim { shard: SHARD, epoch: Epoch { counter: 4, owner: boot(owner) } };
    core.handle_claim(ms(0), own.clone());
    core.handle_timeout(ms(9_000));
    assert_eq!(actions(&mut core), [], "the owner is up");
    core.handle_received(ms(9_000), &own);
    assert_eq!(claims(&mut core, 9_000).epoch.counter, 5);
    core.handle_received(ms(9_001), &own);
    assert_eq!(actions(&mut core), [], "told twice");
}

#[test]
fn the_next_in_line_claims_when_the_owner_is_down() {
    let (owner, first) = other_and_first();
    let mut core = core(owner, sight("a1 b1", ""));
    core.handle_claim(ms(0), Claim { shard: SHARD, epoch: Epoch { counter: 4, owner: boot(first) } });
    core.handle_timeout(ms(5_000));
    core.handle_sight(ms(5_000), sight(owner, ""));
    assert_eq!(actions(&mut core), []);
    core.handle_sight(ms(5_100), sight("a1 b1", ""));
    core.handle_sight(ms(5_200), sight(owner, ""));
    core.handle_timeout(ms(5_600));
    assert_eq!(actions(&mut core), [], "patience begins anew when the owner was back meanwhile");
    assert_eq!(claims(&mut core, 5_700).epoch.counter, 5);
}

#[test]
fn a_newer_boot_of_the_owner_is_not_the_owner() {
    let mut core = core("a2", sight("a2", ""));
    core.handle_claim(ms(0), claim("4a1"));
    assert_eq!(claims(&mut core, 500), claim("5a2"));
}

#[test]
fn a_greater_epoch_stops_an_owner_at_once_and_is_a_conflict() {
    let mut core = core("a1", sight("a1", ""));
    let own = claims(&mut core, 500);
    core.handle_claim(ms(600), claim("1a0"));
    assert_eq!(actions(&mut core), [], "a lesser one is nothing");
    core.handle_claim(ms(600), claim("1b1"));
    assert_eq!(
        actions(&mut core),
        [
            Action::Superseded { claim: own.clone(), by: epoch("1b1") },
            Action::Conflict { lost: own, won: epoch("1b1") }
        ]
    );
    assert_eq!(core.owns(SHARD), None);
    assert!(core.fence().check(SHARD, &epoch("1a1")).is_err());
}

#[test]
fn a_draining_owner_hands_over_and_keeps_what_nobody_can_take() {
    let mut core = core("a1", sight("a1", ""));
    let own = claims(&mut core, 500);
    core.handle_sight(ms(600), sight("a1", "a"));
    assert_eq!(actions(&mut core), []);
    assert!(core.owns(SHARD).is_some());
    core.handle_sight(ms(700), sight("a1 b1", "a"));
    assert_eq!(actions(&mut core), [Action::HandOver { claim: own, to: boot("b1") }]);
}

#[test]
fn a_handoff_to_a_node_that_dies_or_is_not_preferred_any_more_is_cancelled() {
    let (owner, first) = other_and_first();
    let mut core = core(owner, sight(owner, ""));
    let own = claims(&mut core, 500);
    core.handle_sight(ms(600), sight("a1 b1", ""));
    actions(&mut core);
    core.handle_sight(ms(700), sight(owner, ""));
    assert_eq!(actions(&mut core), [Action::CancelHandOver(own.clone())]);
    assert!(!core.handle_acknowledged(ms(800), &own, &boot(first)), "too late");
    assert!(core.owns(SHARD).is_some());
}

#[test]
fn a_failed_handoff_is_tried_again_after_a_while() {
    let (owner, first) = other_and_first();
    let mut core = core(owner, sight(owner, ""));
    let own = claims(&mut core, 500);
    core.handle_sight(ms(600), sight("a1 b1", ""));
    actions(&mut core);
    core.handle_failed(ms(700), &own);
    core.handle_sight(ms(800), sight("a1 b1", ""));
    assert_eq!(actions(&mut core), []);
    assert_eq!(core.poll_timeout(), Some(ms(1_700)));
    core.handle_timeout(ms(1_700));
    assert_eq!(actions(&mut core), [Action::HandOver { claim: own, to: boot(first) }]);
    assert_eq!(core.poll_timeout(), None);
}

#[test]
fn what_was_let_go_is_taken_back_if_the_other_dies_or_knows_nothing_of_it() {
    for dies in [true, false] {
        let (owner, first) = other_and_first();
        let mut core = core(owner, sight(owner, ""));
        let own = claims(&mut core, 500);
        core.handle_sight(ms(600), sight("a1 b1", ""));
        core.handle_acknowledged(ms(700), &own, &boot(first));
        actions(&mut core);
        core.handle_timeout(ms(9_000));
        assert_eq!(actions(&mut core), [], "the other is up, and is to claim");
        if dies {
            core.handle_sight(ms(9_000), sight(owner, ""));
        } else {
            core.handle_refused(ms(9_000), &own);
        }
        let again = claims(&mut core, 9_000);
        assert_eq!(again.epoch, Epoch::next(Some(&own.epoch), &boot(owner)).expect("not the last"));
        assert!(core.fence().check(SHARD, &own.epoch).is_err(), "the old epoch stays over");
        assert_eq!(core.fence().check(SHARD, &again.epoch), Ok(()));
    }
}

#[test]
fn an_epoch_that_was_not_granted_is_asked_for_again() {
    let mut core = core("a1", sight("a1", ""));
    for (at, error) in [EpochError::Unavailable("no quorum".to_owned()), EpochError::Exhausted].into_iter().enumerate()
    {
        let now = ms(500 + 1_000 * at as u64);
        core.handle_timeout(now);
        assert_eq!(actions(&mut core), [Action::Seek { shard: SHARD, after: None }]);
        core.handle_epoch(now, SHARD, Err(error));
        assert_eq!(actions(&mut core), []);
        assert_eq!(core.poll_timeout(), Some(now + ms(1_000)));
    }
    core.handle_timeout(ms(2_500));
    actions(&mut core);
    core.handle_epoch(ms(2_500), SHARD, Err(EpochError::Granted(epoch("9b1"))));
    core.handle_timeout(ms(3_500));
    assert_eq!(actions(&mut core), [Action::Seek { shard: SHARD, after: Some(epoch("9b1")) }], "b is not up");
    core.handle_claim(ms(3_600), claim("12b1"));
    core.handle_epoch(ms(3_600), SHARD, Ok(epoch("10a1")));
    assert_eq!(actions(&mut core), [], "an epoch that is not above all is not used");
    core.handle_timeout(ms(4_600));
    assert_eq!(actions(&mut core), [Action::Seek { shard: SHARD, after: Some(epoch("12b1")) }]);
}

#[test]
fn shards_that_do_not_exist_are_ignored() {
    let mut core = core("a1", sight("a1", ""));
    let strange = Claim { shard: ShardId(1), epoch: epoch("1b1") };
    core.handle_claim(ms(0), strange.clone());
    core.handle_received(ms(0), &strange);
    assert!(core.claims().is_empty());
}

#[test]
fn a_node_has_caught_up_when_it_owns_what_it_should_and_nothing_else() {
    let (owner, first) = other_and_first();
    let mut core = core(owner, sight(owner, ""));
    assert!(!core.is_caught_up() && core.is_handed_over(), "it is to claim");
    let own = claims(&mut core, 500);
    assert!(core.is_caught_up() && !core.is_handed_over());
    core.handle_sight(ms(600), sight("a1 b1", ""));
    assert!(!core.is_caught_up() && !core.is_handed_over(), "it is to hand over");
    core.handle_acknowledged(ms(700), &own, &boot(first));
    assert!(core.is_caught_up() && core.is_handed_over());
    // The last that is up keeps what it has.
    let mut last = self::core("a1", sight("a1", ""));
    claims(&mut last, 500);
    last.handle_sight(ms(600), sight("a1", "a"));
    assert!(last.is_caught_up() && last.is_handed_over());
    let before = Core::new(boot("a1"), ShardCount::new(1).expect("valid"), ClaimConfig::default(), Fence::default());
    assert!(!before.is_caught_up(), "it knows nobody");
}

#[test]
fn greater_epochs_are_news_once() {
    let mut core = core("a1", sight("a1", ""));
    core.handle_claim(ms(0), claim("2b1"));
    core.handle_claim(ms(0), claim("3b1"));
    assert_eq!((core.poll_news(), core.poll_news()), (Some(SHARD), None));
    core.handle_claim(ms(0), claim("3b1"));
    assert_eq!(core.poll_news(), None);
    let own = claims(&mut core, 500);
    assert_eq!(core.poll_news(), Some(own.shard), "its own too");
}
