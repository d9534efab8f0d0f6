use super::*;
use crate::epoch::tests::boot;
use crate::handoff::{Ask, Direction};
use crate::{Candidate, Placement, ReplicaCount};

const SHARD: ShardId = ShardId(0);

/// What the steward is to do, but for what it asks of the authority, which it is given at once.
fn commands(steward: &mut Steward, now: Duration) -> Vec<Command> {
    let mut rest = Vec::new();
    while let Some(command) = steward.poll_command() {
        match command {
            Command::Seek { shard, after } => {
                let epoch = Epoch::next(after.as_ref(), steward.core().me()).expect("the first ones");
                steward.handle_epoch(now, shard, Ok(epoch));
            }
            other => rest.push(other),
        }
    }
    rest
}

fn sight(nodes: &[NodeId], shards: ShardCount) -> Sight {
    let candidates: Vec<_> = nodes.iter().map(|node| Candidate::new(node.name.clone())).collect();
    let placement = Placement::compute(&candidates, shards, ReplicaCount::default()).expect("distinct names");
    Sight::new(nodes.to_vec(), [], placement)
}

/// A steward that owns a shard which a node that has come should own, and the handoff of it.
fn handing_over() -> (Steward, Duration, HandoffId) {
    let config = StewardConfig { shards: ShardCount::new(1).expect("valid"), ..StewardConfig::default() };
    // Who should own the shard is a matter of hashes: the one of two that should not has it first.
    let (mut me, mut other) = (boot("a1"), boot("b1"));
    if sight(&[me.clone(), other.clone()], config.shards).preferred(SHARD).as_ref() == Some(&me) {
        std::mem::swap(&mut me, &mut other);
    }
    let mut steward = Steward::new(me.clone(), config, Fence::default());
    steward.handle_sight(Duration::ZERO, sight(std::slice::from_ref(&me), config.shards));
    steward.handle_learned(Duration::ZERO);
    let now = config.claims.patience;
    steward.handle_timeout(now);
    assert!(matches!(&commands(&mut steward, now)[..], [Command::Own(_)]));
    steward.handle_sight(now, sight(&[me, other], config.shards));
    match &commands(&mut steward, now)[..] {
        [Command::Handoff(Step::Open(id))] => (steward, now, id.clone()),
        other => panic!("{other:?}"),
    }
}

fn tell(id: &HandoffId, tell: Tell) -> HandoffMessage {
    HandoffMessage::Tell(id.clone(), tell)
}

#[test]
fn a_handoff_that_is_cancelled_leaves_the_shard_served_and_is_tried_again_after_the_usual_wait() {
    let (mut steward, now, id) = handing_over();
    let to = steward.desk().all().next().expect("it is under way").peer;
    let retry = ClaimConfig::default().retry;
    // It is paused, and the receiver does not say that it has installed it.
    steward.handle_opened(now, &id, 0, 0);
    steward.handle_message(now, &to, tell(&id, Tell::Have { next: 0 }));
    steward.handle_changes(now, &id, 0, 0);
    steward.handle_message(now, &to, tell(&id, Tell::Installing));
    assert!(commands(&mut steward, now).contains(&Command::Handoff(Step::Pause(id.clone()))));

    assert!(steward.cancel(now, SHARD));
    let message = HandoffMessage::Ask(id.clone(), Ask::Cancel);
    let steps = [Step::Send { to: to.clone(), message }, Step::Resume(id.clone()), Step::Close(id.clone())];
    assert_eq!(commands(&mut steward, now), steps.map(Command::Handoff));
    assert_eq!(steward.core().owns(SHARD), Some(&id.claim.epoch));
    assert_eq!(steward.core().fence().check(SHARD, &id.claim.epoch), Ok(()));
    assert_eq!(steward.desk().all().count(), 0);
    assert!(!steward.cancel(now, SHARD), "there is none any more");

    // What the receiver says late is too late.
    steward.handle_message(now, &to, tell(&id, Tell::Installed));
    assert_eq!(steward.core().owns(SHARD), Some(&id.claim.epoch));
    commands(&mut steward, now);

    assert_eq!(steward.poll_timeout(), Some(now + retry));
    steward.handle_timeout(now + retry / 2);
    assert_eq!(commands(&mut steward, now), []);
    steward.handle_timeout(now + retry);
    let again = HandoffId { attempt: id.attempt + 1, ..id };
    assert_eq!(commands(&mut steward, now), [Command::Handoff(Step::Open(again.clone()))]);

    // What was let go stays so.
    let now = now + retry;
    steward.handle_opened(now, &again, 0, 0);
    steward.handle_message(now, &to, tell(&again, Tell::Have { next: 0 }));
    steward.handle_changes(now, &again, 0, 0);
    steward.handle_message(now, &to, tell(&again, Tell::Installed));
    assert!(steward.core().owns(SHARD).is_none() && !steward.cancel(now, SHARD));
    assert!(steward.desk().all().all(|progress| progress.direction == Direction::Sending), "its release is told");
}
