//! Who owns which shard: claims, and the state machine that makes and gives up those of one node.
//!
//! | module | idea |
//! |---|---|
//! | `table` | the claims that are known: of each shard the one of the greatest epoch |
//! | `book` | the same as one replicated document |
//! | `fence` | refuses what carries an old epoch |
//! | `sight` | what a node sees of the members: who is up, and where shards belong |
//! | `core` | what one node claims, keeps, hands over and gives up |

mod book;
mod core;
mod fence;
mod sight;
mod table;

pub use self::book::{ClaimBook, claims_of, write_claim};
pub use self::core::{Action, ClaimConfig, Core, Hold};
pub use self::fence::{By, Fence, Superseded};
pub use self::sight::Sight;
pub use self::table::{Claim, Claims};
