//! The object decoders, which take any bytes: never a panic, never a wild access, and what was encoded
//! comes back.
//!
//! An input is tried as an object; then as a page, which is encoded, and its object damaged here and there:
//! so the decoders see what is nearly right without a corpus of objects.

#![no_main]

use frontswap::page::{PAGE_SIZE, Page};
use frontswap_backends::CodecName;
use frontswap_backends::codec::{Context, decode};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    codec: u8,
    level: i8,
    /// Bytes of an object to change: where, and by which bits.
    damage: [(u16, u8); 3],
    /// Bytes that are cut from an object's end.
    cut: u8,
    bytes: &'a [u8],
}

fuzz_target!(|input: Input| {
    // zstd's fast levels are below zero; from 19 up it is too slow for a fuzzer.
    let mut context = Context::new(true, i32::from(input.level) % 19);
    let codec = CodecName::ALL[usize::from(input.codec) % CodecName::ALL.len()];
    check_any_bytes(codec, input.bytes, &mut context);
    let page = page_of(input.bytes);
    for codec in CodecName::ALL {
        let Some(object) = context.encode(codec, &page).map(<[u8]>::to_vec) else { continue };
        assert!((1..=PAGE_SIZE).contains(&object.len()));
        check_round_trip(codec, &object, &page, &mut context);
        check_any_bytes(codec, &damaged(object, &input), &mut context);
    }
});

/// A decoder says no or fills the page, and says the same of the same object whatever the page held.
fn check_any_bytes(codec: CodecName, object: &[u8], context: &mut Context) {
    let mut first = Box::new(Page::filled_with(0x5555_5555_5555_5555));
    let mut second = Box::new(Page::filled_with(0xaaaa_aaaa_aaaa_aaaa));
    let is_decoded = decode_with(codec, object, context, &mut first).is_ok();
    assert_eq!(decode_with(codec, object, context, &mut second).is_ok(), is_decoded);
    assert!(!is_decoded || first == second, "{codec:?} left bytes of the page as they were");
}

fn check_round_trip(codec: CodecName, object: &[u8], page: &Page, context: &mut Context) {
    let mut out = Box::new(Page::ZERO);
    decode_with(codec, object, context, &mut out).expect("what was encoded is decoded");
    assert!(*out == *page, "{codec:?} changed the page");
}

fn decode_with(
    codec: CodecName,
    object: &[u8],
    context: &mut Context,
    out: &mut Page,
) -> Result<(), &'static str> {
    match codec {
        CodecName::Zstd => context.decode_zstd(object, out),
        _ => decode(codec, object, out),
    }
}

fn damaged(mut object: Vec<u8>, input: &Input) -> Vec<u8> {
    let length = object.len();
    for (at, bits) in input.damage {
        object[usize::from(at) % length] ^= bits;
    }
    object.truncate(length.saturating_sub(input.cut.into()));
    // An allocation of its own length, so that a read past the end is seen.
    object.into_boxed_slice().into_vec()
}

/// The bytes over and over, so that short inputs make pages that compress.
fn page_of(bytes: &[u8]) -> Page {
    let mut page = Page::ZERO;
    for (to, from) in page.0.iter_mut().zip(bytes.iter().cycle()) {
        *to = *from;
    }
    page
}
