//! The states of a managed page, and its legal moves.
//!
//! Two of the three facts that make a state are not ours to write down: whether the page is present is
//! in the kernel's page table, whether there is a copy is in the chain's map. Only *moving* is our own:
//! it is a bit of the chunk, set and cleared under the chunk's lock. So nothing can disagree, and the
//! truth of a page that is missing is always the same: what is being moved, else what the chain has,
//! else zeroes.

/// Where the contents of a page are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageState {
    /// Never written, or thrown away by the program: zeroes, nowhere.
    Untouched,
    /// In the process, and nowhere else.
    Resident,
    /// In the process, and a copy in the chain that was right when it was loaded.
    Kept,
    /// Taken out of the process, in our staging, on its way to the chain.
    Moving,
    /// In the chain alone.
    Evicted,
    /// The chain could not give it back: an access ends in SIGBUS.
    Lost,
}

/// What changes a page's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The program touches it and it is filled.
    Fault,
    /// The evictor takes it out.
    MoveOut,
    /// The chain has accepted it, or has it unchanged.
    Stored,
    /// Nobody takes it, or it is wanted back.
    PutBack,
    /// The program throws its contents away, or unmaps it.
    Discard,
    /// A fault finds it damaged.
    LoadFailed,
}

impl PageState {
    /// Every state.
    pub const ALL: [PageState; 6] = [
        PageState::Untouched,
        PageState::Resident,
        PageState::Kept,
        PageState::Moving,
        PageState::Evicted,
        PageState::Lost,
    ];

    /// The state of a page, from the three facts.
    pub fn of(is_present: bool, has_copy: bool, is_moving: bool) -> PageState {
        match (is_present, has_copy, is_moving) {
            (false, _, true) => PageState::Moving,
            (true, true, _) => PageState::Kept,
            (true, false, _) => PageState::Resident,
            (false, true, false) => PageState::Evicted,
            (false, false, false) => PageState::Untouched,
        }
    }

    /// The states that `cause` may lead to; empty when it cannot happen.
    pub fn after(self, cause: Cause) -> &'static [PageState] {
        use PageState::{Evicted, Kept, Lost, Moving, Resident, Untouched};
        match (self, cause) {
            (Untouched, Cause::Fault) => &[Resident],
            // Whether the copy stays is decided by what happens nearby.
            (Evicted, Cause::Fault) => &[Kept, Resident],
            (Moving, Cause::Fault | Cause::PutBack) => &[Resident, Kept],
            (Resident | Kept, Cause::MoveOut) => &[Moving],
            // A page of zeroes needs no copy.
            (Moving, Cause::Stored) => &[Evicted, Untouched],
            (_, Cause::Discard) => &[Untouched],
            (Evicted, Cause::LoadFailed) => &[Lost],
            _ => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_move_makes_contents_up() {
        // Contents may only be lost on purpose: what had some never becomes untouched by itself, but for
        // a page of zeroes, which is the same.
        for state in [PageState::Resident, PageState::Kept, PageState::Evicted, PageState::Lost] {
            for cause in [Cause::Fault, Cause::MoveOut, Cause::Stored, Cause::PutBack, Cause::LoadFailed] {
                assert!(!state.after(cause).contains(&PageState::Untouched), "{state:?} {cause:?}");
            }
        }
    }

    #[test]
    fn a_page_leaves_only_by_way_of_the_staging() {
        for state in PageState::ALL {
            for cause in [Cause::Fault, Cause::MoveOut, Cause::Stored, Cause::PutBack, Cause::LoadFailed] {
                if state.after(cause).contains(&PageState::Evicted) {
                    assert_eq!((state, cause), (PageState::Moving, Cause::Stored));
                }
            }
        }
    }

    #[test]
    fn the_facts_name_a_state() {
        assert_eq!(PageState::of(false, false, false), PageState::Untouched);
        assert_eq!(PageState::of(true, true, false), PageState::Kept);
        // A copy of a page that is moving is an old one.
        assert_eq!(PageState::of(false, true, true), PageState::Moving);
    }
}
