//! A model of tasks that start while all are being stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shuttle::future::{block_on, spawn};

use super::*;
use crate::races::check;

/// Counts those that exist.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Two threads start tasks while a third stops all: once `stop` has returned, no task is left that was started before,
/// and nothing starts any more.
#[test]
fn nothing_starts_or_runs_after_the_end() {
    check(|| {
        let tasks = Arc::new(Tasks::on_current_runtime(Gate::default()));
        let alive = Arc::new(AtomicUsize::new(0));
        let starters = [0, 1].map(|_| {
            let (tasks, alive) = (Arc::clone(&tasks), Arc::clone(&alive));
            spawn(async move {
                for _ in 0..2 {
                    let one = Alive::new(&alive);
                    tasks.spawn(async move {
                        let _one = one;
                        std::future::pending::<()>().await;
                    });
                }
            })
        });
        block_on(async {
            tasks.stop().await;
            let one = Alive::new(&alive);
            assert!(tasks.spawn(async move { drop(one) }).is_none(), "it has stopped");
            for starter in starters {
                starter.await.expect("it ends");
            }
            assert_eq!(alive.load(Ordering::Relaxed), 0, "a task outlives the end");
        });
    });
}
