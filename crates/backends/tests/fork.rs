//! A child of fork that drops what its parent made: nothing waits, and no memory of the child's own goes
//! with it. Alone in its file, because only one thread may be running when a process forks.

mod common;

use common::sharing::Child;
use common::{Look, MIB, assert_holds, chain, file, member, ram, zpool};
use frontswap::{ChainOptions, Key};

#[test]
fn a_child_may_drop_the_chain_of_its_parent() {
    let members = [member(zpool(4 * MIB)), member(ram(4 * MIB)), member(file(4 * MIB))];
    let parents = chain(&members.each_ref(), ChainOptions::default(), 1000);
    drop(members);
    for offset in 0..300 {
        parents.store(Key::new(0, offset), &Look::Noise.page(offset)).unwrap();
    }
    let mut parents = Some(parents);
    let child = Child::run(|| {
        // The child's memory comes to lie where the parent's pools are, which it does not have.
        let own = vec![7u8; 64 << 20];
        drop(parents.take());
        assert!(own.iter().all(|byte| *byte == 7));
    });
    child.join();
    let parents = parents.expect("only the child took it");
    for offset in 0..300 {
        assert_holds(&parents, Key::new(0, offset), &Look::Noise.page(offset));
    }
}
