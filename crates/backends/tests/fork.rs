//! A child of fork that drops what its parent made: nothing waits, and no memory of the child's own goes
//! with it. Alone in its file, because only one thread may be running when a process forks.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Look, MIB, assert_holds, chain, file, member, ram, zpool};
use frontswap::{Chain, ChainOptions, Key};

// SAFETY: these are the C library's own functions, with its types.
unsafe extern "C" {
    fn fork() -> i32;
    fn waitpid(process: i32, status: *mut i32, options: i32) -> i32;
    fn kill(process: i32, signal: i32) -> i32;
    fn _exit(status: i32) -> !;
}

const WNOHANG: i32 = 1;
const SIGKILL: i32 = 9;

/// What a child does: its memory comes to lie where the parent's pools are, which it does not have.
fn in_child(chain: Arc<Chain>) -> i32 {
    let own = vec![7u8; 64 << 20];
    drop(chain);
    i32::from(own.iter().any(|byte| *byte != 7))
}

/// The status of a child that ends within ten seconds.
fn status_of(child: i32) -> Option<i32> {
    let start = Instant::now();
    let mut status = 0;
    while start.elapsed() < Duration::from_secs(10) {
        // SAFETY: the child is ours, and the pointer is to a number.
        if unsafe { waitpid(child, &mut status, WNOHANG) } == child {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // SAFETY: the child is ours and has not been waited for, so the number is still its own.
    unsafe {
        kill(child, SIGKILL);
        waitpid(child, &mut status, 0);
    }
    None
}

#[test]
fn a_child_may_drop_the_chain_of_its_parent() {
    let members = [member(zpool(4 * MIB)), member(ram(4 * MIB)), member(file(4 * MIB))];
    let chain = chain(&members.each_ref(), ChainOptions::default(), 1000);
    drop(members);
    for offset in 0..300 {
        chain.store(Key::new(0, offset), &Look::Noise.page(offset)).unwrap();
    }
    // SAFETY: the child touches nothing but memory, and ends without running anything of the parent's.
    let child = unsafe { fork() };
    if child == 0 {
        let status = in_child(chain);
        // SAFETY: the child ends here.
        unsafe { _exit(status) };
    }
    assert!(child > 0, "the system forks no more");
    assert_eq!(status_of(child), Some(0), "the child crashed, hung or lost its own memory");
    for offset in 0..300 {
        assert_holds(&chain, Key::new(0, offset), &Look::Noise.page(offset));
    }
}
