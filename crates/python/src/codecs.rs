//! What each codec would make of some data.

use std::time::Instant;

use frontswap::key::Key;
use frontswap::page::{PAGE_SIZE, Page};
use frontswap_backends::codec::{CodecChoice, CodecName, Context, Memory, decode};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::detached;

struct Measured {
    codec: &'static str,
    compr_data_size: u64,
    compress_ns: u64,
    decompress_ns: u64,
}

/// Encodes and decodes `data`, whole pages of it, with every codec and with `auto`.
#[pyfunction]
pub fn measure_codecs<'py>(
    py: Python<'py>,
    data: &Bound<'py, PyAny>,
    level: i32,
) -> PyResult<Vec<Bound<'py, PyDict>>> {
    let bytes = PyBuffer::<u8>::get(data)?.to_vec(py)?;
    let (chunks, rest) = bytes.as_chunks::<PAGE_SIZE>();
    if chunks.is_empty() || !rest.is_empty() {
        return Err(PyValueError::new_err("the data is not a whole number of pages"));
    }
    let measured = detached(py, "measure codecs", || {
        let mut context = Context::new(true, level);
        let names = CodecChoice::names();
        Ok(names.into_iter().map(|name| measure(name, chunks, &mut context)).collect::<Vec<_>>())
    })?;
    measured
        .into_iter()
        .map(|row| {
            let dict = PyDict::new(py);
            dict.set_item("codec", row.codec)?;
            dict.set_item("orig_data_size", bytes.len())?;
            dict.set_item("compr_data_size", row.compr_data_size)?;
            dict.set_item("compress_ns", row.compress_ns)?;
            dict.set_item("decompress_ns", row.decompress_ns)?;
            Ok(dict)
        })
        .collect()
}

fn measure(name: &'static str, chunks: &[[u8; PAGE_SIZE]], context: &mut Context) -> Measured {
    let choice = CodecChoice::from_name(name).expect("the name is one of the table");
    let memory = Memory::default();
    let mut row = Measured { codec: name, compr_data_size: 0, compress_ns: 0, decompress_ns: 0 };
    let mut out = Page::ZERO;
    let mut object = Vec::with_capacity(PAGE_SIZE);
    for (offset, chunk) in chunks.iter().enumerate() {
        let page = Page(*chunk);
        let start = Instant::now();
        let codec = match choice {
            CodecChoice::Auto => {
                let (codec, bytes) = memory.encode(choice, context, Key::new(0, offset as u64), &page);
                object.clear();
                object.extend_from_slice(bytes);
                codec
            }
            CodecChoice::Fixed(codec) => {
                let bytes = context.encode(codec, &page);
                object.clear();
                object.extend_from_slice(bytes.unwrap_or(chunk));
                if object.len() == PAGE_SIZE { CodecName::Raw } else { codec }
            }
        };
        row.compress_ns += start.elapsed().as_nanos() as u64;
        row.compr_data_size += object.len() as u64;
        let start = Instant::now();
        let decoded = match codec {
            CodecName::Zstd => context.decode_zstd(&object, &mut out),
            _ => decode(codec, &object, &mut out),
        };
        row.decompress_ns += start.elapsed().as_nanos() as u64;
        assert!(decoded.is_ok() && out == page, "{name} changed page {offset}");
    }
    row
}
