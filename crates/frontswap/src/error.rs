//! The one table of error kinds. Messages, hints, Python's exceptions, the page `docs/errors.md` and
//! the tests over them are all made from it.
//!
//! An error says what failed, on which object, and why. Our own bugs are assertions; values of
//! [`Error`] are for faults of the world and of callers.

use std::fmt;

/// The built-in exception that a Python caller expects for a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builtin {
    /// `ValueError`
    Value,
    /// `TypeError`
    Type,
    /// `LookupError`
    Lookup,
    /// `MemoryError`
    Memory,
    /// `OSError`
    Os,
    /// `RuntimeError`
    Runtime,
    /// `ImportError`
    Import,
}

impl Builtin {
    /// Its name in Python.
    pub fn name(self) -> &'static str {
        match self {
            Builtin::Value => "ValueError",
            Builtin::Type => "TypeError",
            Builtin::Lookup => "LookupError",
            Builtin::Memory => "MemoryError",
            Builtin::Os => "OSError",
            Builtin::Runtime => "RuntimeError",
            Builtin::Import => "ImportError",
        }
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $builtin:ident, $template:literal, $hint:literal;)*) => {
        /// One kind of error. The documentation of each is its row in `docs/errors.md`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind { $(#[doc = $template] $name,)* }

        impl Kind {
            /// Every kind, in the table's order.
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)*];

            /// Its stable name, for programs.
            pub fn code(self) -> &'static str {
                match self { $(Kind::$name => $code,)* }
            }

            /// What a Python caller can catch besides our own class.
            pub fn builtin(self) -> Builtin {
                match self { $(Kind::$name => Builtin::$builtin,)* }
            }

            /// The message, with a `{name}` for each value.
            pub fn template(self) -> &'static str {
                match self { $(Kind::$name => $template,)* }
            }

            /// One thing to do about it.
            pub fn hint(self) -> &'static str {
                match self { $(Kind::$name => $hint,)* }
            }
        }
    };
}

kinds! {
    PageLength = "page-length", Value,
        "cannot {operation} a page of `{length}` bytes: a page is 4096 bytes",
        "pass a C-contiguous buffer of exactly 4096 bytes";
    PageBuffer = "page-buffer", Type,
        "cannot {operation} a page: `{buffer}` {reason}",
        "pass a C-contiguous buffer of 4096 bytes, such as a `bytearray` or a NumPy array of numbers; `np.ascontiguousarray` makes one";
    AreaNumber = "area-number", Lookup,
        "cannot use area `{area}`: areas are numbered 0 to 65535",
        "use a number within those limits";
    AreaNotInitialised = "area-not-initialised", Lookup,
        "cannot use area `{area}`: it was not initialised",
        "call `init({area}, pages=...)` first";
    AreaInvalid = "area-invalid", Value,
        "cannot initialise area `{area}` with `{pages}` pages: an area is numbered 0 to 65535 and has 1 to 68719476736 pages",
        "use a number and a length within those limits";
    AreaInUse = "area-in-use", Value,
        "cannot initialise area `{area}` again: it is in use with `{pages}` pages",
        "call `invalidate_area({area})` first, which forgets its pages";
    OffsetPastEnd = "offset-past-end", Lookup,
        "cannot use offset `{offset}` of area `{area}`: the area has `{pages}` pages",
        "initialise the area with more pages, or use an offset from 0 to the length less one";
    OffsetInvalid = "offset-invalid", Value,
        "cannot use offset `{offset}` of area `{area}`: offsets are whole numbers from 0",
        "count pages from 0 inside the area";
    CapacityInvalid = "capacity-invalid", Value,
        "cannot set the capacity of `{backend}` to `{capacity}`: {reason}",
        "give a size such as `256MiB` or `25%`, above zero and within the machine";
    SizeInvalid = "size-invalid", Value,
        "cannot read `{text}` as a size: {reason}",
        "write a number of bytes, or a number with K, M, G, T, KiB, MiB, GiB, TiB, KB, MB, GB, TB, or a percentage";
    CodecUnknown = "codec-unknown", Value,
        "no codec named `{codec}`; known: {known}",
        "`frontswap codecs FILE` shows what each would make of your data";
    BackendUnknown = "backend-unknown", Lookup,
        "no backend named `{backend}`; known: {known}",
        "`frontswap backends` lists those that are installed";
    OptionUnknown = "option-unknown", Value,
        "`{object}` has no setting named `{key}`; known: {known}",
        "remove it, or correct its name";
    OptionInvalid = "option-invalid", Value,
        "cannot set `{key}` of `{object}` to `{value}`: {reason}",
        "correct the value";
    ConfigInvalid = "config-invalid", Value,
        "cannot read the configuration `{path}`: {reason}",
        "see docs/configuration.md for a complete example";
    PluginInvalid = "plugin-invalid", Runtime,
        "cannot use the backend `{backend}` of package `{package}`: {reason}",
        "update that package, or remove it";
    PluginClash = "plugin-clash", Runtime,
        "two packages offer a backend named `{backend}`: {packages}",
        "remove one of the packages";
    SwapFileOpen = "swap-file-open", Os,
        "cannot open a swap file in `{place}`: {reason}",
        "name a directory on a disk that you can write to";
    SwapFileSpace = "swap-file-space", Os,
        "cannot reserve `{size}` for a swap file in `{place}`: {reason}",
        "free some space there, ask for less, or name another place";
    SwapFileDirect = "swap-file-direct", Os,
        "cannot use direct I/O on a swap file in `{place}`: {reason}",
        "name a place on a disk file system, or allow the page cache with `direct=False` (`direct=no`)";
    NoMemory = "no-memory", Memory,
        "cannot reserve `{size}` of address space for `{backend}`: {reason}",
        "raise `ulimit -v`, or make the machine allow more memory maps";
    PagerPermission = "pager-permission", Os,
        "cannot {operation}: {reason}",
        "run `frontswap doctor`, or grant access with `setfacl -m u:$USER:rw /dev/userfaultfd`";
    PagerUnsupported = "pager-unsupported", Os,
        "cannot {operation}: {reason}",
        "Linux 6.8 or later is needed, and a seccomp filter that allows `userfaultfd`; `frontswap doctor` tells which is missing";
    PagerFailed = "pager-failed", Os,
        "cannot {operation}: {reason}",
        "run `frontswap doctor`";
    PinTooLarge = "pin-too-large", Memory,
        "cannot hold `{size}` in RAM: `{held}` is held already, and `{limit}` is all that may be",
        "hold less at a time, or raise `ram`";
    ThreadFailed = "thread-failed", Runtime,
        "cannot start a thread for `{object}`: {reason}",
        "raise `ulimit -u`, or the cgroup's `pids.max`";
    Closed = "closed", Value,
        "cannot {operation}: `{object}` is closed",
        "create a new one; a closed one cannot be used again";
    Forked = "forked", Runtime,
        "cannot {operation} after a fork: `{object}` belongs to process `{owner}`",
        "create a new one in the child; the parent's pages stay with the parent";
    BackendBroken = "backend-broken", Os,
        "backend `{backend}` can no longer take pages: {reason}",
        "pages that it holds still load; add another backend, then remove this one";
    PageUnreadable = "page-unreadable", Os,
        "backend `{backend}` cannot give back page `{offset}` of area `{area}`: {reason}",
        "the page is lost unless the backend recovers; nothing was returned in its place";
    PageCorrupt = "page-corrupt", Os,
        "backend `{backend}` damaged page `{offset}` of area `{area}`: checksum {found}, expected {expected}",
        "check the memory and the disk of this machine; the damaged bytes were not returned";
    PageLost = "page-lost", Os,
        "backend `{backend}` lost page `{offset}` of area `{area}`: it accepted the page and now says missing",
        "mark a backend that can lose pages as volatile, and use writethrough";
    DrainIncomplete = "drain-incomplete", Memory,
        "cannot remove backend `{backend}`: `{pages}` of its pages fit nowhere else",
        "add a backend with room first, or invalidate pages; nothing was lost and the backend goes on";
    BackendInChain = "backend-in-chain", Value,
        "cannot add backend `{backend}`: it is already part of a chain",
        "create another backend; each belongs to one chain";
    BackendInUse = "backend-in-use", Value,
        "cannot {operation} backend `{backend}` directly: it belongs to a chain or to another backend",
        "go through what it belongs to, or take it out of there first";
    BackendNotEmpty = "backend-not-empty", Value,
        "cannot add backend `{backend}`: it holds `{pages}` pages that the chain would not know of",
        "invalidate its areas first, or create another backend";
    BackendNotInChain = "backend-not-in-chain", Lookup,
        "cannot remove backend `{backend}`: it is not part of this chain",
        "pass one of the objects in `backends`";
    ChainOrder = "chain-order", Value,
        "cannot put backend `{backend}` at position `{position}`: {reason}",
        "put the slow swap last";
    ChainLimit = "chain-limit", Value,
        "cannot add backend `{backend}`: a chain has at most `{limit}`",
        "remove one first";
    VolatileNeedsWritethrough = "volatile-needs-writethrough", Value,
        "cannot add backend `{backend}`: it can lose pages, and the chain does not write through",
        "create the chain with `writethrough=True` and a slow swap";
    WritethroughNeedsSlow = "writethrough-needs-slow", Value,
        "cannot write through: the chain has no slow swap",
        "add a `SwapFile` as the last backend";
    Reentered = "reentered", Runtime,
        "cannot {operation} from within the code of a backend of that chain",
        "do it when the call that led there has returned";
    BackendFailed = "backend-failed", Runtime,
        "backend `{backend}` failed in `{operation}`: {reason}",
        "mend the backend; nothing was lost by this call";
    SpaceInUse = "space-in-use", Runtime,
        "cannot close a `Space` while arrays of it are alive, {arrays}",
        "drop them, as with `del`, and close it again; after `close(later=True)` it ends with the last of them";
    SpaceForeign = "space-foreign", Value,
        "cannot pin memory of another `Space`",
        "use the space that it was made in";
    BufferEvicted = "buffer-evicted", Os,
        "a system call failed on memory of a `Space`: some of it was not in RAM, and the kernel does not fetch it",
        "hold it for the call with `with space.pinned(a):`, or go through `space.file(f)`, which does so piece by piece";
    NumpyUnfit = "numpy-unfit", Import,
        "cannot use NumPy: {reason}",
        "`pip install 'frontswap[numpy]'`";
    RamLimitInvalid = "ram-limit-invalid", Value,
        "cannot run a program in `{ram}` of RAM: {reason}",
        "give a size from 32 MiB to the memory of this machine, such as `512MiB` or `25%`";
    BackendUnfit = "backend-unfit", Value,
        "cannot use backend `{backend}` for a whole program: {reason}",
        "use `zpool`, or `zpool` and then `file`";
    ProgramNotFound = "program-not-found", Os,
        "cannot find the program `{program}`: {reason}",
        "check the name, or write the program's path";
    ProgramNotExecutable = "program-not-executable", Os,
        "cannot execute `{program}`: {reason}",
        "name a program, or a script that begins with a line such as `#!/bin/sh`";
    ProgramUnmanageable = "program-unmanageable", Runtime,
        "cannot manage the memory of `{program}`: {reason}",
        "`--best-effort` runs it all the same, with its memory unmanaged";
    RunNested = "run-nested", Runtime,
        "cannot start `frontswap run` inside another: `FRONTSWAP_TREE` is `{tree}`",
        "leave the inner one out: what a program starts shares the program's budget";
    UserfaultfdDenied = "userfaultfd-denied", Os,
        "cannot open a full userfaultfd: {reason}",
        "run `frontswap doctor`, or grant access with `{command}`";
    KernelUnfit = "kernel-unfit", Runtime,
        "cannot manage the memory of a program on this kernel: {reason}",
        "use Linux 6.8 or later; `frontswap doctor` shows what this one lacks";
    PreloadUnfit = "preload-unfit", Runtime,
        "cannot load frontswap into a program: {reason}",
        "install frontswap anew, for instance with `pip install --force-reinstall frontswap`";
    StatsFile = "stats-file", Os,
        "cannot write the figures to `{path}`: {reason}",
        "name another file";
    ProcessNotManaged = "process-not-managed", Lookup,
        "cannot reach the budget of process `{pid}`: {reason}",
        "give the PID of a `frontswap run` of yours, or of a program in it; `pgrep -af 'frontswap run'` shows them";
    Internal = "internal", Runtime,
        "internal error in {operation}: {reason}",
        "this is a bug in frontswap: please report it with this message";
}

/// One error: its kind and the finished message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    message: String,
    fields: Vec<(&'static str, String)>,
    errno: Option<i32>,
}

impl Error {
    /// Fills the template of `kind`. Every `{name}` of it must be among `fields`.
    pub fn new(kind: Kind, fields: &[(&'static str, &dyn fmt::Display)]) -> Self {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.to_string())).collect();
        let message = fill(kind.template(), &fields);
        Error { kind, message, fields, errno: None }
    }

    /// The same error with the system's error number, which the message then names.
    pub fn with_errno(mut self, errno: Option<i32>) -> Self {
        self.errno = errno;
        self
    }

    /// Its row of the table.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The message, without hint.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// One thing to do about it.
    pub fn hint(&self) -> String {
        fill(self.kind.hint(), &self.fields)
    }

    /// The system's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        self.errno
    }
}

/// Puts the values of `fields` where `template` names them. What a value contains is not looked at: a
/// file may be called `{reason}`. A name without a value stays as it is.
pub fn fill<N: AsRef<str>>(template: &str, fields: &[(N, String)]) -> String {
    let mut text = String::with_capacity(template.len() + 64);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        let value = after.split_once('}').and_then(|(name, behind)| {
            let (_, value) = fields.iter().find(|(field, _)| field.as_ref() == name)?;
            Some((value, behind))
        });
        match value {
            Some((value, behind)) => {
                text.push_str(value);
                rest = behind;
            }
            None => {
                text.push('{');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_texts_follow_the_style() {
        for (index, kind) in Kind::ALL.iter().enumerate() {
            assert!(Kind::ALL[..index].iter().all(|other| other.code() != kind.code()), "{kind:?}");
            let template = kind.template();
            assert!(!template.ends_with('.') && !template.starts_with(char::is_uppercase), "{template}");
            assert!(!kind.hint().is_empty() && !kind.hint().ends_with('.'), "{kind:?}");
        }
    }

    #[test]
    fn a_value_is_not_a_template() {
        let error = Error::new(Kind::CodecUnknown, &[("codec", &"{known}{"), ("known", &"`lz4`")]);
        assert_eq!(error.message(), "no codec named `{known}{`; known: `lz4`");
        assert_eq!(fill("{a} {b} {", &[("a", "{b}".to_owned())]), "{b} {b} {");
    }

    #[test]
    fn a_message_names_its_values() {
        let error = Error::new(Kind::OffsetPastEnd, &[("area", &0), ("offset", &18432), ("pages", &100)]);
        assert_eq!(error.message(), "cannot use offset `18432` of area `0`: the area has `100` pages");
    }
}
