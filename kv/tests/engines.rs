//! Every engine does what engines must do.

use std::sync::Arc;

use polity_cluster::BoxFuture;
use polity_kv::engine::conformance::{Keeps, World, check};
use polity_kv::{Engine, EngineError, MemoryEngine};
use polity_shard::ShardCount;

type Opened<'a> = BoxFuture<'a, Result<Arc<dyn Engine>, EngineError>>;

struct InMemory;

impl World for InMemory {
    fn open(&mut self, shards: ShardCount) -> Opened<'_> {
        Box::pin(async move { Ok(Arc::new(MemoryEngine::new(shards)) as Arc<dyn Engine>) })
    }

    fn keeps(&self) -> Keeps {
        Keeps::Nothing
    }
}

#[tokio::test]
async fn memory() {
    check(InMemory).await.expect("conforms");
}

#[cfg(feature = "durable")]
mod durable {
    use polity_cluster::NodeName;
    use polity_kv::engine::DurableEngine;
    use polity_kv::engine::durable::Owner;

    use super::*;

    pub(crate) struct Folder(pub(crate) std::path::PathBuf);

    impl Folder {
        pub(crate) fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("polity-engines-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    pub(crate) fn owner(shards: ShardCount) -> Owner {
        Owner { cluster: "test".to_owned(), node: NodeName::new("n1").expect("valid"), shards }
    }

    struct OnDisk(Folder);

    impl World for OnDisk {
        fn open(&mut self, shards: ShardCount) -> Opened<'_> {
            Box::pin(async move { Ok(Arc::new(DurableEngine::open(&self.0.0, &owner(shards))?) as Arc<dyn Engine>) })
        }

        fn keeps(&self) -> Keeps {
            Keeps::Durable
        }
    }

    #[tokio::test]
    async fn on_disk() {
        check(OnDisk(Folder::new("conform"))).await.expect("conforms");
    }

    #[test]
    fn a_folder_has_one_owner() {
        let folder = Folder::new("owner");
        let ours = owner(ShardCount::new(4).expect("valid"));
        let open = |owner: &Owner| DurableEngine::open(&folder.0, owner).map(drop);
        let held = DurableEngine::open(&folder.0, &ours).expect("opens");
        held.store(polity_shard::ShardId(0), b"k", b"1").expect("works");
        assert_eq!(open(&ours), Err(EngineError::InUse { folder: folder.0.clone() }));
        drop(held);
        let node = NodeName::new("n2").expect("valid");
        assert!(matches!(open(&Owner { node, ..ours.clone() }), Err(EngineError::NotOurs { .. })));
        let cluster = "prod".to_owned();
        assert!(matches!(open(&Owner { cluster, ..ours.clone() }), Err(EngineError::NotOurs { .. })));
        let shards = ShardCount::new(8).expect("valid");
        assert!(matches!(
            open(&Owner { shards, ..ours.clone() }),
            Err(EngineError::OtherShards { found: 4, expected: 8, .. })
        ));
        let held = DurableEngine::open(&folder.0, &ours).expect("nothing was touched");
        assert_eq!(held.load(polity_shard::ShardId(0), b"k"), Ok(Some(b"1".to_vec())));
        drop(held);
        // Data without an identity are somebody's; a first start that was interrupted is not.
        std::fs::rename(folder.0.join("identity"), folder.0.join("away")).expect("works");
        assert!(matches!(open(&ours), Err(EngineError::NotOurs { .. })));
        std::fs::rename(folder.0.join("data"), folder.0.join("data.new")).expect("works");
        assert_eq!(open(&ours), Ok(()));
        std::fs::write(folder.0.join("identity"), "polity-kv 9\n").expect("works");
        assert!(matches!(open(&ours), Err(EngineError::Version { .. })));
    }

    /// No user may make a folder there, whoever runs this.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_folder_that_is_read_only_is_named() {
        let folder = std::path::Path::new("/sys/polity-kv");
        let refused = DurableEngine::open(folder, &owner(ShardCount::default())).expect_err("it is read-only");
        assert!(matches!(&refused, EngineError::ReadOnly { path, .. } if path == folder), "{refused}");
        assert!(!refused.is_retryable());
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_named() {
        let folder = Folder::new("file");
        std::fs::write(&folder.0, "a file").expect("works");
        let opened = DurableEngine::open(&folder.0, &owner(ShardCount::default()));
        let error = opened.expect_err("a file is no folder").to_string();
        assert!(error.contains(&*folder.0.to_string_lossy()), "{error}");
        std::fs::remove_file(&folder.0).expect("works");
    }
}

#[cfg(feature = "turmoil")]
#[tokio::test(start_paused = true)]
async fn on_a_disk_that_loses_power() {
    for seed in 0..6 {
        let world = polity_kv::engine::faulty::World::new(seed, seed % 2 == 0);
        check(world).await.unwrap_or_else(|breach| panic!("seed {seed}: {breach}"));
    }
}
