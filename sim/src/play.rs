//! Lets a case happen in its world.

use std::time::Duration;

use crate::case::{Act, Case};
use crate::fault::Step;
use crate::world::World;

/// What is to be done at one moment of an act, for one of its faults.
enum Moment {
    Begin,
    Take(Step),
    End,
}

/// From the formation of the cluster to the last read.
pub fn play(case: &Case, world: &mut World) {
    world.form();
    for (i, act) in case.acts.iter().enumerate() {
        // To go on with stores that have not settled would destroy more than they promise to survive.
        if i > 0 && !(world.converge() && world.settle()) {
            break;
        }
        play_act(act, world);
    }
    world.finish();
}

fn play_act(act: &Act, world: &mut World) {
    let mut moments: Vec<(Duration, usize, Moment)> = Vec::new();
    for (i, timed) in act.faults.iter().enumerate() {
        moments.push((timed.from, i, Moment::Begin));
        let timeline = timed.fault.timeline(timed.lasts);
        moments.extend(timeline.into_iter().map(|(at, step)| (timed.from + at, i, Moment::Take(step))));
        moments.push((timed.to(), i, Moment::End));
    }
    // Stable: what was pushed first happens first.
    moments.sort_by_key(|(at, ..)| *at);
    let began = world.elapsed();
    let mut numbers = vec![0; act.faults.len()];
    for (at, i, moment) in moments {
        world.run_to(began + at);
        match moment {
            Moment::Begin => numbers[i] = world.begin(&act.faults[i].fault),
            Moment::Take(step) => world.take(numbers[i], &step),
            Moment::End => world.end_fault(numbers[i]),
        }
    }
    world.run_to(began + act.lasts);
    world.start_missing();
}
