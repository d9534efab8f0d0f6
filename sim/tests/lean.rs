//! Membership, node state and placement on the lean event loop: promises M1 to M6 and H1, and moments at which
//! membership is easily wrong, each with its exact schedule.

use std::time::Duration;

use polity::cluster::lean::News;
use polity::shard::{Weight, Zone};
use polity::{Boot, Profile, Status};
use polity_sim::lean::{Begin, Cluster, Host, Note, Plan, Weather, measure};

/// Longer than a formation takes, and than halves need to meet again.
const CONVERGENCE: Duration = Duration::from_secs(15);
/// What promise M1 allows.
const DETECTION: Duration = Duration::from_secs(5);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// So many nodes that agree.
fn formed(nodes: usize, seed: u64) -> Cluster {
    let mut cluster = Cluster::of(nodes, seed, Weather::default());
    cluster.run_until_agreed(CONVERGENCE).expect("a quiet network lets a cluster form");
    cluster.keep_notes();
    cluster
}

/// Promises M3, M6 and H1: all that run agree on just those that run and place alike, and each was told of all that it
/// sees.
fn assert_converges(cluster: &mut Cluster) {
    assert!(cluster.run_until_agreed(CONVERGENCE).is_some(), "they do not agree");
    // What is still on its way must change nothing.
    cluster.run(secs(3));
    assert!(cluster.agreed(), "they no longer agree");
    cluster.validate();
    assert_eq!(cluster.check_placements(1), Ok(1));
}

/// Promise M4: these boots went by no other name in the meantime, however often they were believed down.
fn assert_kept(cluster: &Cluster, boots: &[(Host, Boot)]) {
    for (host, boot) in boots {
        assert_eq!(cluster.identity(*host).node.boot, *boot, "the node on host {host} has another boot");
    }
}

fn boots(cluster: &Cluster) -> Vec<(Host, Boot)> {
    cluster.hosts().into_iter().map(|host| (host, cluster.identity(host).node.boot)).collect()
}

fn noted(cluster: &Cluster, wanted: impl Fn(Host, Note) -> bool) -> usize {
    cluster.notes().iter().filter(|(_, host, note)| wanted(*host, *note)).count()
}

/// How often anybody saw this life of a node Down or Left.
fn buried(cluster: &Cluster, life: Boot) -> usize {
    noted(
        cluster,
        |_, note| matches!(note, Note::Sees { boot, status: Status::Down | Status::Left, .. } if boot == life),
    )
}

#[test]
fn a_seed_has_one_trace() {
    let run = |seed| {
        let mut cluster = Cluster::of(20, seed, Weather { loss: 0.05, doubled: 0.02, ..Weather::default() });
        cluster.run(secs(5));
        cluster.crash(7);
        cluster.pause(8);
        cluster.run(secs(5));
        cluster.resume(8);
        cluster.restart(9);
        cluster.leave(10);
        cluster.run(secs(10));
        (cluster.net().trace(), cluster.net().events(), cluster.traffic(), cluster.mistakes())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).0, run(2).0);
}

#[test]
fn clusters_of_one_five_and_fifty_form() {
    for (nodes, seed) in [(1, 1), (2, 2), (5, 3), (50, 4)] {
        let mut cluster = Cluster::of(nodes, seed, Weather::default());
        assert_converges(&mut cluster);
        assert_eq!(cluster.mistakes(), Default::default(), "{nodes} nodes");
    }
}

/// Promise M1.
#[test]
fn a_crash_is_seen_by_all_in_five_seconds() {
    for seed in 0..20 {
        let mut cluster = formed(10, seed);
        cluster.crash((seed % 10) as usize);
        cluster.run(DETECTION);
        let crash = *cluster.detections().next().expect("one has crashed");
        assert_eq!(crash.seen, 9, "seed {seed}: {crash:?}");
        assert_eq!(cluster.mistakes().raised, 0, "seed {seed}");
        assert_converges(&mut cluster);
    }
}

#[test]
fn halves_that_were_apart_agree_again_and_keep_their_boots() {
    for (nodes, seed) in [(10, 1), (50, 2)] {
        let mut cluster = formed(nodes, seed);
        let before = boots(&cluster);
        let (left, right): (Vec<Host>, Vec<Host>) = cluster.hosts().into_iter().partition(|host| host % 2 == 0);
        cluster.part(right.iter().copied(), 1);
        cluster.run(secs(20));
        assert!(cluster.agreed_among(&left) && cluster.agreed_among(&right), "each half agrees");
        assert_eq!(cluster.node(left[0]).up().1, left.len());
        cluster.heal();
        assert_converges(&mut cluster);
        assert_kept(&cluster, &before);
    }
}

/// However many fall silent at once, and although a half of those who could help do. Who hears none of many others waits with
/// its verdict.
#[test]
fn a_split_is_noticed_by_both_halves_and_by_one_that_is_alone() {
    for (nodes, within, alone_within) in [(10, secs(5), secs(8)), (100, secs(12), secs(60))] {
        let mut cluster = formed(nodes, 43);
        let (left, right): (Vec<Host>, Vec<Host>) = cluster.hosts().into_iter().partition(|host| host % 2 == 0);
        cluster.part(right.iter().copied(), 1);
        cluster.run(within);
        assert!(cluster.agreed_among(&left) && cluster.agreed_among(&right), "each half of {nodes} agrees");
        assert_eq!(cluster.node(left[0]).up().1, left.len());
        cluster.heal();
        assert_converges(&mut cluster);
        cluster.part([3], 1);
        cluster.run(alone_within);
        assert_eq!(cluster.node(3).up().1, 1, "of {nodes}, one sees only itself");
        cluster.heal();
        // It has buried them all, so each comes back to it under a new rejoin.
        assert_converges(&mut cluster);
    }
}

#[test]
fn halves_that_have_forgotten_each_other_meet_through_seeds() {
    let mut cluster = Cluster::of(6, 41, Weather::default());
    cluster.run_until_agreed(CONVERGENCE).expect("they agree");
    let before = boots(&cluster);
    // The seeds are the first three: all on one side.
    cluster.part([3, 4, 5], 1);
    cluster.run(secs(25 * 3600));
    assert_eq!(cluster.node(4).agent().expect("runs").members().len(), 3, "the others were forgotten");
    cluster.heal();
    assert_converges(&mut cluster);
    assert_kept(&cluster, &before);
}

/// A member sends as much in a small cluster as in a large one.
#[test]
fn quiet_traffic_does_not_grow_with_the_cluster() {
    let bytes = |nodes: usize| {
        let mut cluster = formed(nodes, 42);
        cluster.run(secs(20));
        let before = cluster.traffic();
        cluster.run(secs(60));
        let sent = cluster.traffic();
        let bytes = sent.datagram_bytes + sent.call_bytes - before.datagram_bytes - before.call_bytes;
        bytes as f64 / nodes as f64 / 60.0
    };
    let (few, many) = (bytes(10), bytes(200));
    assert!(many < few * 1.05, "{few:.0} and {many:.0} bytes a second");
}

/// Promise H1, with zones, weights, a drain and churn: wherever views are equal, placements are.
#[test]
fn equal_views_place_alike() {
    let mut cluster = Cluster::new(5, Weather { loss: 0.02, ..Weather::default() });
    for at in 0..30u16 {
        let host = cluster.add_host();
        let mut plan = cluster.plan(host, &format!("n{at}"));
        let zone = Zone::new(&format!("z{}", at % 4)).expect("valid");
        let weight = Weight::new(50 + at * 10).expect("in range");
        plan.profile = Profile { weight, zone: (at % 5 != 0).then_some(zone), ..Profile::default() };
        cluster.start(host, plan);
    }
    let mut views = 0;
    for step in 0..60usize {
        match step {
            20 => cluster.crash(11),
            25 => cluster.leave(12),
            30 => cluster.poke(13, |agent, now| {
                let profile = Profile { draining: true, ..Profile::default() };
                agent.set_profile(now, profile);
            }),
            35 => cluster.restart(14),
            40 => drop(cluster.join()),
            _ => {}
        }
        cluster.run(ms(200));
        views = views.max(cluster.check_placements(1).expect("promise H1"));
    }
    assert!(views > 1, "views did differ meanwhile");
    assert_converges(&mut cluster);
}

#[test]
fn at_twenty_percent_loss_nobody_rejoins_needlessly() {
    let mut cluster = formed(30, 7);
    cluster.weather().loss = 0.2;
    cluster.run(secs(120));
    let mistakes = cluster.mistakes();
    assert!(mistakes.suspected > 0, "losses do raise suspicions");
    assert!(mistakes.rejoins <= mistakes.raised && mistakes.rejoins <= 1, "{mistakes:?}");
    cluster.weather().loss = 0.0;
    assert_converges(&mut cluster);
}

#[test]
fn two_first_nodes_that_start_at_once_become_one_cluster() {
    // Each hears from the other that it starts too: the first of them goes on, and the other joins it.
    let mut cluster = Cluster::of(2, 11, Weather::default());
    cluster.run(ms(500));
    assert!(cluster.identity(0).node.boot.generation == 1 && cluster.identity(1).node.boot.generation == 1);
    let before = boots(&cluster);
    assert_converges(&mut cluster);
    assert_kept(&cluster, &before);
}

#[test]
fn a_restart_at_the_same_address_within_the_suspicion_is_no_death() {
    let mut cluster = formed(5, 12);
    let old = cluster.identity(4).node.boot;
    cluster.crash(4);
    // It is suspected by now, and not yet Down.
    cluster.run(ms(1_400));
    let plan = cluster.plan(4, "n4");
    cluster.start(4, plan);
    cluster.run(ms(300));
    let new = cluster.identity(4).node.boot;
    assert_eq!(new.generation, old.generation + 1, "its seeds told it of the life before");
    assert_converges(&mut cluster);
    assert_eq!(buried(&cluster, new), 0, "the suspicion of the old life does not harm the new one");
}

#[test]
fn one_whom_all_the_others_have_forgotten_meets_their_new_boots_when_it_suspects_the_old_ones() {
    for seed in 0..20 {
        let mut cluster = formed(6, seed);
        for host in 0..5 {
            let plan = Plan { begin: Begin::Ask { remembered: 1 }, ..cluster.plan(host, &format!("n{host}")) };
            cluster.start(host, plan);
        }
        // Nobody tells them of the sixth, and what it sends is sealed for their boots of before.
        cluster.run(ms(500));
        assert!(!cluster.agreed());
        let took = cluster.run_until_agreed(CONVERGENCE).expect("they agree");
        assert!(took < ms(3_500), "seed {seed}: after {took:?}, which is when it gave the old ones up");
    }
}

#[test]
fn one_that_is_cut_off_from_many_that_come_back_without_knowing_it_meets_them_at_once() {
    for seed in 0..20 {
        let mut cluster = formed(12, seed);
        (0..11).for_each(|host| cluster.crash(host));
        // It has accused all of them, and buries none before 40 s: whoever loses so many may be cut off.
        cluster.run(secs(15));
        assert_eq!(cluster.status(11, "n0"), Some(Status::Suspect));
        for host in 0..11 {
            let plan = Plan { begin: Begin::Ask { remembered: 1 }, ..cluster.plan(host, &format!("n{host}")) };
            cluster.start(host, plan);
        }
        let took = cluster.run_until_agreed(CONVERGENCE).expect("they agree");
        assert!(took < secs(5), "seed {seed}: after {took:?}");
    }
}

#[test]
fn a_name_that_returns_at_a_new_address_is_the_same_member() {
    let mut cluster = formed(5, 13);
    cluster.crash(4);
    cluster.run(ms(700));
    let host = cluster.add_host();
    let plan = cluster.plan(host, "n4");
    cluster.start(host, plan);
    assert_converges(&mut cluster);
    for at in 0..4 {
        assert_eq!(cluster.sees(at, "n4").map(|seen| seen.addr), Some(cluster.identity(host).addr));
        assert_eq!(cluster.node(at).agent().expect("runs").members().len(), 5);
    }
}

#[test]
fn a_name_may_return_right_after_it_has_left() {
    let mut cluster = formed(5, 14);
    let old = cluster.identity(4).node.boot;
    cluster.leave(4);
    cluster.run(ms(10));
    assert!(cluster.net().member(4).is_none(), "its farewells have arrived");
    assert_eq!(cluster.status(0, "n4"), Some(Status::Left));
    let plan = cluster.plan(4, "n4");
    cluster.start(4, plan);
    cluster.run(ms(100));
    let new = cluster.identity(4).node.boot;
    assert!(new > old);
    assert_converges(&mut cluster);
    assert_eq!(buried(&cluster, new), 0, "the farewell of the old life does not end the new one");
}

#[test]
fn a_leave_against_a_join_through_the_one_that_leaves() {
    let mut cluster = formed(5, 15);
    let host = cluster.add_host();
    let mut plan = cluster.plan(host, "late");
    // Its only seed has just begun to leave: it goes on alone until it meets the others, whom the last words of its
    // seed may have named, or who greet it.
    plan.seeds = [polity_sim::lean::addr(4), polity_sim::lean::addr(3)].into();
    cluster.start(host, plan);
    cluster.leave(4);
    assert_converges(&mut cluster);
    assert_eq!(cluster.status(host, "n3"), Some(Status::Alive));
    for at in 0..4 {
        assert_eq!(cluster.status(at, "n4"), Some(Status::Left), "on host {at}");
        assert_eq!(cluster.status(at, "late"), Some(Status::Alive), "on host {at}");
    }
}

#[test]
fn a_restart_below_the_incarnation_of_its_own_death_notice_is_alive() {
    let mut cluster = formed(5, 16);
    // Suspicions drive its incarnation up; the notice of its death carries that.
    for incarnation in 0..7 {
        let suspect = News::suspect(cluster.identity(4), incarnation);
        cluster.tell(0, 1, suspect);
        cluster.run(secs(1));
    }
    assert_eq!(cluster.status(0, "n4"), Some(Status::Alive), "it has refuted");
    cluster.crash(4);
    cluster.run(DETECTION);
    assert_eq!(cluster.status(0, "n4"), Some(Status::Down));
    let plan = cluster.plan(4, "n4");
    cluster.start(4, plan);
    cluster.run(ms(100));
    let new = cluster.identity(4).node.boot;
    assert_converges(&mut cluster);
    assert_eq!((buried(&cluster, new), cluster.identity(4).rejoin), (0, 0), "its incarnation begins anew at 0");
}

#[test]
fn an_address_that_another_name_has_taken_belongs_to_that_name() {
    let mut cluster = formed(5, 17);
    cluster.crash(4);
    let plan = cluster.plan(4, "other");
    cluster.start(4, plan);
    cluster.run(DETECTION + secs(1));
    for at in 0..4 {
        assert_eq!(cluster.status(at, "n4"), Some(Status::Down), "on host {at}");
        assert_eq!(cluster.status(at, "other"), Some(Status::Alive), "on host {at}");
    }
    let host = cluster.add_host();
    let plan = cluster.plan(host, "n4");
    cluster.start(host, plan);
    assert_converges(&mut cluster);
}

#[test]
fn one_that_loses_everyone_finds_everyone_again() {
    let mut cluster = formed(5, 18);
    let before = boots(&cluster);
    cluster.part([4], 1);
    cluster.run(secs(30));
    assert_eq!(cluster.node(4).up().1, 1, "it sees only itself");
    assert_eq!(cluster.status(0, "n4"), Some(Status::Down));
    cluster.heal();
    assert_converges(&mut cluster);
    assert_kept(&cluster, &before);
}

/// Of five members three make a verdict; one alone accuses.
#[test]
fn the_verdict_of_one_is_refuted_and_costs_nothing() {
    let mut cluster = formed(5, 19);
    let before = boots(&cluster);
    let accused = cluster.identity(4);
    cluster.tell(0, 1, News::down(accused.clone()));
    cluster.tell(1, 2, News::down(accused));
    assert_converges(&mut cluster);
    assert_kept(&cluster, &before);
    assert_eq!((cluster.identity(4).rejoin, cluster.mistakes().raised), (0, 0));
}

#[test]
fn a_false_notice_of_death_ends_in_a_rejoin() {
    let mut cluster = formed(5, 20);
    let before = boots(&cluster);
    let accused = cluster.identity(4);
    // Three accuse, and a fourth declares.
    for from in [1, 2, 3, 1] {
        cluster.tell(0, from, News::down(accused.clone()));
    }
    assert_converges(&mut cluster);
    assert_kept(&cluster, &before);
    assert_eq!((cluster.identity(4).rejoin, cluster.mistakes().rejoins), (1, 1));
}

#[test]
fn a_leave_that_crosses_a_suspicion_is_a_leave() {
    let mut cluster = formed(5, 21);
    let accused = cluster.identity(4);
    cluster.tell(0, 1, News::suspect(accused, 0));
    cluster.leave(4);
    assert_converges(&mut cluster);
    cluster.run(secs(5));
    for at in 0..4 {
        assert_eq!(cluster.status(at, "n4"), Some(Status::Left), "on host {at}");
    }
    assert_eq!(cluster.mistakes().rejoins, 0, "nobody who leaves comes back");
}

#[test]
fn a_newer_boot_ends_the_older_one_that_still_gossips() {
    let mut cluster = formed(5, 22);
    let old = cluster.identity(4).node.boot;
    let host = cluster.add_host();
    let plan = cluster.plan(host, "n4");
    cluster.start(host, plan);
    let before = cluster.traffic().datagrams;
    cluster.run(secs(10));
    let sent = cluster.traffic().datagrams - before;
    assert!(sent < 6 * 10 * 40, "{sent} datagrams in ten seconds are a storm");
    let new = cluster.identity(host).node.boot;
    assert!(new > old);
    assert_eq!(noted(&cluster, |at, note| at == 4 && note == Note::Superseded(new)), 1, "the older one stops");
    assert!(cluster.net().member(4).is_none());
    assert_converges(&mut cluster);
    assert_eq!(buried(&cluster, new), 0);
}

#[test]
fn an_older_boot_that_wakes_up_after_it_was_superseded_stops() {
    let mut cluster = formed(5, 23);
    cluster.pause(4);
    cluster.run(secs(8));
    let host = cluster.add_host();
    let plan = cluster.plan(host, "n4");
    cluster.start(host, plan);
    cluster.run(secs(5));
    let new = cluster.identity(host).node.boot;
    cluster.resume(4);
    assert_converges(&mut cluster);
    assert_eq!(noted(&cluster, |at, note| at == 4 && note == Note::Superseded(new)), 1);
    assert_eq!(buried(&cluster, new), 0, "what the old one still says of itself harms nobody");
}

#[test]
fn an_answer_of_a_peer_that_has_died_since_is_forgotten_again() {
    let mut cluster = formed(5, 24);
    *cluster.weather() = Weather { latency: ms(10), jitter: ms(0), ..Weather::default() };
    let (met, host) = (cluster.identity(4), cluster.add_host());
    let mut plan = cluster.plan(host, "late");
    plan.begin = Begin::As(Boot { generation: 1, nonce: 1 }, vec![met]);
    // Two questions and two answers take 40 ms; the peer dies before the last arrives.
    cluster.start(host, plan);
    cluster.run(ms(32));
    cluster.crash(4);
    cluster.run(ms(10));
    assert!(cluster.node(host).agent().expect("runs").joined(), "the answer has arrived");
    assert_eq!(cluster.status(host, "n4"), Some(Status::Alive));
    cluster.run(DETECTION);
    assert_eq!(cluster.status(host, "n4"), Some(Status::Down));
    assert_converges(&mut cluster);
}

#[test]
fn a_farewell_that_is_lost_is_found_out_by_probing() {
    let mut cluster = formed(5, 25);
    for other in 0..4 {
        cluster.cut(4, other);
    }
    cluster.leave(4);
    cluster.run(ms(1_100));
    assert!(cluster.net().member(4).is_none(), "it does not wait for ever");
    cluster.heal();
    cluster.run(DETECTION);
    for at in 0..4 {
        assert_eq!(cluster.status(at, "n4"), Some(Status::Down), "on host {at}: nobody has heard that it left");
    }
    let plan = cluster.plan(4, "n4");
    cluster.start(4, plan);
    assert_converges(&mut cluster);
}

#[test]
fn two_suspicions_that_cross_are_both_refuted() {
    let mut cluster = formed(5, 26);
    let (one, other) = (cluster.identity(3), cluster.identity(4));
    cluster.tell(3, 0, News::suspect(other, 0));
    cluster.tell(4, 0, News::suspect(one, 0));
    assert_converges(&mut cluster);
    let mistakes = cluster.mistakes();
    assert!(mistakes.suspected > 0);
    assert_eq!((mistakes.raised, mistakes.rejoins), (0, 0));
}

#[test]
fn what_is_said_of_an_older_life_harms_neither_the_new_one_nor_its_view_of_itself() {
    let mut cluster = formed(5, 27);
    let old = cluster.identity(4);
    cluster.restart(4);
    cluster.run(ms(200));
    let new = cluster.identity(4).node.boot;
    for at in 0..5 {
        cluster.tell(at, 0, News::down(old.clone()));
        cluster.tell(at, 0, News::suspect(old.clone(), 9));
    }
    assert_converges(&mut cluster);
    assert_eq!(buried(&cluster, new), 0);
    let own = cluster.sees(4, "n4").expect("it sees itself");
    assert_eq!((own.id.boot, own.status), (new, Status::Alive));
}

#[test]
fn a_link_that_fails_in_one_direction_is_no_death() {
    let mut cluster = formed(5, 28);
    cluster.cut(4, 0);
    cluster.run(secs(30));
    let mistakes = cluster.mistakes();
    assert_eq!((mistakes.raised, mistakes.rejoins), (0, 0), "the others answer for it");
    cluster.heal();
    assert_converges(&mut cluster);
}

#[test]
fn one_that_pauses_comes_back_and_accuses_nobody() {
    for seed in 30..35 {
        let mut cluster = formed(8, seed);
        let before = boots(&cluster);
        cluster.pause(5);
        cluster.run(secs(10));
        assert_eq!(cluster.status(0, "n5"), Some(Status::Down));
        cluster.resume(5);
        assert_converges(&mut cluster);
        assert_kept(&cluster, &before);
        assert_eq!(cluster.mistakes().raised, 0, "seed {seed}: its clock has stood still, nobody has died");
    }
}

/// One whose messages stand still for half a minute buries nobody; one that is cut off for good notices.
#[test]
fn one_that_is_cut_off_from_many_waits_before_it_buries_them() {
    let mut cluster = formed(20, 41);
    let before = boots(&cluster);
    cluster.part([5], 1);
    cluster.run(secs(35));
    assert_eq!(cluster.node(5).up().1, 20);
    assert_eq!(cluster.status(0, "n5"), Some(Status::Down));
    cluster.heal();
    assert_converges(&mut cluster);
    assert_kept(&cluster, &before);
    assert_eq!(cluster.mistakes().raised, 0);
    cluster.part([5], 1);
    cluster.run(secs(60));
    assert_eq!(cluster.node(5).up().1, 1);
    cluster.heal();
    assert_converges(&mut cluster);
}

#[test]
fn one_that_is_slow_is_not_declared_down_by_all_the_time() {
    let mut cluster = formed(8, 36);
    cluster.slow(5, ms(120));
    cluster.run(secs(60));
    assert_eq!(cluster.mistakes().raised, 0, "it answers within the time that a probe has");
    assert_eq!(cluster.status(0, "n5").map(Status::is_up), Some(true));
    cluster.slow(5, ms(0));
    assert_converges(&mut cluster);
}

#[test]
fn whoever_is_down_for_long_is_forgotten_by_all_and_may_return() {
    let mut cluster = Cluster::new(37, Weather::default());
    for at in 0..5 {
        let host = cluster.add_host();
        let mut plan: Plan = cluster.plan(host, &format!("n{at}"));
        plan.timings.forget_down_after = secs(8);
        cluster.start(host, plan);
    }
    cluster.run_until_agreed(CONVERGENCE).expect("they agree");
    let plan = cluster.node(4).plan().clone();
    cluster.crash(4);
    cluster.run(secs(30));
    for at in 0..4 {
        assert_eq!(cluster.status(at, "n4"), None, "on host {at}");
    }
    cluster.validate();
    cluster.start(4, plan);
    assert_converges(&mut cluster);
}

#[test]
fn a_wave_of_joins_under_loss_and_doubling_is_told_to_all() {
    let mut cluster = formed(20, 38);
    *cluster.weather() = Weather { loss: 0.05, doubled: 0.05, ..Weather::default() };
    for _ in 0..20 {
        cluster.join();
    }
    assert_converges(&mut cluster);
    assert_eq!(cluster.mistakes().raised, 0);
}

#[test]
fn figures_of_a_small_cluster_are_complete() {
    let figures = measure(20, 40, 39);
    assert!(figures.formation.is_some() && figures.wave.is_some(), "{figures}");
    assert_eq!((figures.killed, figures.complete), (3, 3), "{figures}");
    assert!(figures.last_down <= DETECTION + secs(1), "{figures}: with a hundredth of all datagrams lost");
    assert_eq!(figures.mistakes.by_healthy, 0, "{figures}");
}
