//! The backends of frontswap: each keeps pages, none knows who owns them.
//!
//! [`Zpool`] is compressed RAM, [`Ram`] is plain RAM, [`SwapFile`] is the slow swap, and
//! [`FaultInject`] wraps another one to make it reject, delay, fail or damage pages. `unsafe` is in
//! [`arena`] and in the few places that reach into one.

pub mod area_set;
pub mod arena;
pub mod clock;
pub mod codec;
pub mod fault_inject;
pub mod file;
pub mod objects;
pub mod ram;
pub mod shuffle;
pub mod spans;
pub mod zpool;

pub use codec::{CodecChoice, CodecName};
pub use fault_inject::{FaultInject, Faults};
pub use file::{CLUSTER_BYTES, ClusterClaims, SwapFile};
pub use ram::Ram;
pub use zpool::{Incompressible, Zpool, ZpoolOptions};
