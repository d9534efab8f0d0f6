//! Shared registers, `m<i>`, that are read, then written or deleted with the context of the read or of the last write.

use rand::RngExt as _;

use super::{Client, Pace, Workload, one_of, shared};

pub(super) const WORKLOAD: Workload = Workload {
    name: "edits",
    about: "shared registers are read, then written or deleted with the context of what was seen",
    keys: |_| shared('m'),
    clients: |client, paces| vec![Box::pin(edit(client.clone(), paces.next()))],
    observers: |_| Vec::new(),
    read: |client, key| Box::pin(async move { client.get(key).await.is_some() }),
};

async fn edit(client: Client, mut pace: Pace) {
    while pace.next().await {
        let key = one_of('m', &mut pace.rng);
        let Some((read, context)) = client.get(&key).await else { continue };
        let delete = pace.rng.random_bool(0.2);
        let written = client.write(&key, delete, Some((read, &context))).await;
        if let Some((op, context)) = written
            && pace.rng.random_bool(0.3)
        {
            client.write(&key, false, Some((op, &context))).await;
        }
    }
}
