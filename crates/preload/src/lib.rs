//! The shared object that `frontswap run` loads into a program.
//!
//! When the program starts, this process joins its tree and one thread of ours begins to watch how much it
//! uses (`watch`). Nothing else happens until the tree's budget gets tight: then a pager is made, and
//! memory is managed from there on. `calls` are the functions of the C library that a program calls and of
//! which the pager must know. Without `FRONTSWAP_TREE` in the environment it does nothing.
//!
//! Code here runs inside somebody else's program, also between the ends of a fork and while a thread of the
//! program waits for a page: it uses its own memory (`heap`), no thread-local storage, and never panics on
//! purpose.

mod calls;
mod heap;
mod settings;
mod swap;
mod watch;

/// What `frontswap doctor` and `frontswap run` look for: that this object is of their own version.
#[used]
static BUILD: &[u8] = concat!("frontswap-preload ", env!("CARGO_PKG_VERSION")).as_bytes();

/// Called by the loader before the program's own code.
extern "C" fn begin() {
    watch::begin();
}

/// Called when the program ends in an orderly way.
extern "C" fn end() {
    watch::end();
}

#[used]
// SAFETY: the loader calls what is in this section with the arguments of `main`, which are not used.
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

#[used]
// SAFETY: as above, without arguments.
#[unsafe(link_section = ".fini_array")]
static END: extern "C" fn() = end;
