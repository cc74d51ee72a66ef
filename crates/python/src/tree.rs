//! The memory that a tree of processes shares, for the one who starts it and for those who look.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use frontswap::error::{Error, Kind};
use frontswap_backends::CLUSTER_BYTES;
use frontswap_pager::tree::{Member, NAME};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::raise;

/// A tree of processes that shares one limit of RAM. Read the numbers as they are: nothing waits.
#[pyclass(frozen, module = "frontswap._frontswap")]
pub struct Tree {
    tree: frontswap_pager::Tree,
}

fn no_tree(py: Python<'_>, pid: u32, reason: &str) -> PyErr {
    raise(py, &Error::new(Kind::ProcessNotManaged, &[("pid", &pid), ("reason", &reason)]))
}

/// Finds the memory file among the descriptors of `pid`.
fn find_among_descriptors(pid: u32) -> std::io::Result<Option<String>> {
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        let is_ours = std::fs::read_link(&path).is_ok_and(|link| {
            link.to_string_lossy().strip_prefix("/memfd:").is_some_and(|name| name.starts_with(NAME))
        });
        if is_ours {
            return Ok(Some(path.to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

/// The way that a process of a tree was told.
fn find_in_environment(pid: u32) -> std::io::Result<Option<String>> {
    let environment = std::fs::read(format!("/proc/{pid}/environ"))?;
    let word = environment.split(|byte| *byte == 0).find_map(|word| word.strip_prefix(b"FRONTSWAP_TREE="));
    let path = word.map(|word| String::from_utf8_lossy(word).into_owned());
    Ok(path.map(|path| path.split(';').next().unwrap_or_default().to_owned()))
}

#[pymethods]
impl Tree {
    /// Makes the memory of a new tree.
    #[staticmethod]
    #[pyo3(signature = (ram_limit_bytes, settings, swap_fd=None, swap_bytes=0))]
    fn create(
        py: Python<'_>,
        ram_limit_bytes: u64,
        settings: &str,
        swap_fd: Option<u32>,
        swap_bytes: u64,
    ) -> PyResult<Self> {
        let swap = swap_fd.map(|fd| (fd, (swap_bytes / CLUSTER_BYTES) as u32));
        let tree = frontswap_pager::Tree::create(ram_limit_bytes, settings, swap)
            .map_err(|error| raise(py, &error))?;
        Ok(Tree { tree })
    }

    /// The tree of a process that started one, or that is in one.
    #[staticmethod]
    fn attach(py: Python<'_>, pid: u32) -> PyResult<Self> {
        let found = find_among_descriptors(pid).and_then(|path| match path {
            Some(path) => Ok(Some(path)),
            None => find_in_environment(pid),
        });
        let path = match found {
            Ok(Some(path)) => path,
            Ok(None) => return Err(no_tree(py, pid, "it was not started by `frontswap run`")),
            Err(error) => return Err(no_tree(py, pid, &error.to_string())),
        };
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(|error| no_tree(py, pid, &format!("cannot open `{path}`: {error}")))?;
        let tree = frontswap_pager::Tree::open(OwnedFd::from(file)).map_err(|error| raise(py, &error))?;
        Ok(Tree { tree })
    }

    /// The descriptor of the memory file, which a program inherits.
    #[getter]
    fn fd(&self) -> i32 {
        self.tree.file().as_raw_fd()
    }

    /// The process that made it.
    #[getter]
    fn supervisor(&self) -> u32 {
        self.tree.supervisor()
    }

    /// The limit of RAM, in bytes.
    #[getter]
    fn ram_limit_bytes(&self) -> u64 {
        self.tree.limit().load(Ordering::Relaxed)
    }

    #[setter]
    fn set_ram_limit_bytes(&self, bytes: u64) {
        self.tree.limit().store(bytes, Ordering::Relaxed);
    }

    /// What the processes were told.
    #[getter]
    fn settings(&self) -> String {
        self.tree.settings()
    }

    /// Clears up after processes that were killed.
    fn bury(&self, py: Python<'_>) {
        py.detach(|| self.tree.bury());
    }

    /// The live processes, a dictionary of numbers each.
    fn processes<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let live = self.tree.live().filter(|member| member.pid.load(Ordering::Relaxed) != u32::MAX);
        live.map(|member| {
            let numbers = PyDict::new(py);
            numbers.set_item("pid", member.pid.load(Ordering::Relaxed))?;
            for (name, word) in words(member) {
                numbers.set_item(name, word.load(Ordering::Relaxed))?;
            }
            for (name, counter) in member.counters.all() {
                numbers.set_item(name, counter.load(Ordering::Relaxed))?;
            }
            Ok(numbers)
        })
        .collect()
    }

    /// Sums over all processes, those that have ended included where they count events, and peaks.
    fn totals<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let tree = &self.tree;
        let sum = |word: fn(&Member) -> &AtomicU64| -> u64 {
            tree.live().map(|member| word(member).load(Ordering::Relaxed)).sum()
        };
        let page = frontswap::PAGE_SIZE as u64;
        let stored = sum(|member| &member.stored_pages);
        let peaks = tree.peaks();
        let peak = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let numbers = PyDict::new(py);
        for (name, value) in [
            ("ram_limit_bytes", self.ram_limit_bytes()),
            ("ram_used_bytes", sum(|member| &member.used_bytes)),
            ("ram_peak_bytes", peak(&peaks.ram_bytes)),
            ("managed_bytes", sum(|member| &member.resident_bytes) + stored * page),
            ("managed_peak_bytes", peak(&peaks.managed_bytes)),
            ("registered_bytes", sum(|member| &member.registered_bytes)),
            ("stored_pages", stored),
            ("stored_pages_peak", peak(&peaks.stored_pages)),
            ("orig_data_size", stored * page),
            ("orig_data_size_peak", peak(&peaks.stored_pages) * page),
            ("mem_used_total", sum(|member| &member.mem_used_total)),
            ("mem_used_total_peak", peak(&peaks.mem_used_total)),
            ("disk_used_total", sum(|member| &member.disk_used_total)),
            ("disk_used_total_peak", peak(&peaks.disk_used_total)),
            ("fault_ns_p50", tree.latencies().percentile_ns(50)),
            ("fault_ns_p99", tree.latencies().percentile_ns(99)),
            ("processes", u64::from(tree.joined())),
            ("processes_live", tree.live().count() as u64),
        ] {
            numbers.set_item(name, value)?;
        }
        for (index, (name, counter)) in tree.ended().all().into_iter().enumerate() {
            let live: u64 =
                tree.live().map(|member| member.counters.all()[index].1.load(Ordering::Relaxed)).sum();
            numbers.set_item(name, counter.load(Ordering::Relaxed) + live)?;
        }
        Ok(numbers)
    }
}

fn words(member: &Member) -> [(&'static str, &AtomicU64); 6] {
    [
        ("ram_used_bytes", &member.used_bytes),
        ("resident_bytes", &member.resident_bytes),
        ("registered_bytes", &member.registered_bytes),
        ("stored_pages", &member.stored_pages),
        ("mem_used_total", &member.mem_used_total),
        ("disk_used_total", &member.disk_used_total),
    ]
}

/// Opens a file without a name in `place` and reserves `size` bytes for it; returns its descriptor.
#[pyfunction]
pub fn swap_file_fd(py: Python<'_>, place: &str, size: u64, direct: bool) -> PyResult<i32> {
    let file =
        frontswap_backends::file::create_file(std::path::Path::new(place), frontswap::Bytes(size), direct)
            .map_err(|error| raise(py, &error))?;
    let fd = file.as_raw_fd();
    std::mem::forget(file);
    Ok(fd)
}
