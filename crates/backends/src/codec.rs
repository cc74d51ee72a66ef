//! Codecs, and which one a page gets.
//!
//! A codec turns a page into an object of at most 4096 bytes; what would be longer, or saves less than
//! an eighth, is kept raw. `auto` tries the candidates on the first page of a neighbourhood and then
//! remembers the winner there, with a new trial now and then; so does every other choice remember
//! where data does not compress, and stop trying.
//!
//! Decoders take any bytes: an object that is damaged is an error, never a wild read or write.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};

use frontswap::error::{Error, Kind};
use frontswap::key::Key;
use frontswap::page::{PAGE_SIZE, Page};
use lz4::block::{CompressionMode, compress_to_buffer, decompress_to_buffer};
use zstd_safe::{CCtx, DCtx};

use crate::shuffle::{self, Width};

/// An object longer than this is not worth decoding: the page is kept as it is.
pub const OBJECT_BYTES_MAX: usize = PAGE_SIZE - PAGE_SIZE / 8;

/// How an object is encoded. The numbers are part of table entries; 0 is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CodecName {
    /// The page itself.
    Raw = 1,
    /// lz4, block format.
    Lz4 = 2,
    /// zstd, one frame.
    Zstd = 3,
    /// Byte shuffle of 2-byte items, then lz4.
    Shuffle2 = 4,
    /// Byte shuffle of 4-byte items, then lz4.
    Shuffle4 = 5,
    /// Byte shuffle of 8-byte items, then lz4.
    Shuffle8 = 6,
}

impl CodecName {
    /// Every codec.
    pub const ALL: [CodecName; 6] = [
        CodecName::Lz4,
        CodecName::Zstd,
        CodecName::Shuffle2,
        CodecName::Shuffle4,
        CodecName::Shuffle8,
        CodecName::Raw,
    ];

    /// The codec with that number.
    pub fn from_number(number: u32) -> Option<Self> {
        CodecName::ALL.into_iter().find(|codec| *codec as u32 == number)
    }

    /// Its name in options.
    pub fn name(self) -> &'static str {
        match self {
            CodecName::Raw => "raw",
            CodecName::Lz4 => "lz4",
            CodecName::Zstd => "zstd",
            CodecName::Shuffle2 => "shuffle2",
            CodecName::Shuffle4 => "shuffle4",
            CodecName::Shuffle8 => "shuffle8",
        }
    }

    fn shuffle_width(self) -> Option<Width> {
        match self {
            CodecName::Shuffle2 => Some(Width::Two),
            CodecName::Shuffle4 => Some(Width::Four),
            CodecName::Shuffle8 => Some(Width::Eight),
            _ => None,
        }
    }

    fn of_shuffle(width: Width) -> Self {
        match width {
            Width::Two => CodecName::Shuffle2,
            Width::Four => CodecName::Shuffle4,
            Width::Eight => CodecName::Shuffle8,
        }
    }
}

/// What a pool was told to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodecChoice {
    /// By content: lz4, shuffle and lz4, or raw.
    Auto,
    /// That one, or raw where it does not pay.
    Fixed(CodecName),
}

impl CodecChoice {
    /// Every name that [`CodecChoice::from_name`] knows.
    pub fn names() -> Vec<&'static str> {
        std::iter::once("auto").chain(CodecName::ALL.map(CodecName::name)).collect()
    }

    /// The choice of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        if name == "auto" {
            return Ok(CodecChoice::Auto);
        }
        CodecName::ALL.into_iter().find(|codec| codec.name() == name).map(CodecChoice::Fixed).ok_or_else(
            || {
                let known = CodecChoice::names().iter().map(|name| format!("`{name}`")).collect::<Vec<_>>();
                Error::new(Kind::CodecUnknown, &[("codec", &name), ("known", &known.join(", "))])
            },
        )
    }
}

/// What one compression needs: tables and buffers, made once and used by one thread at a time.
pub struct Context {
    zstd: Option<(CCtx<'static>, DCtx<'static>)>,
    level: i32,
    shuffled: Page,
    object: [u8; PAGE_SIZE],
    rival: [u8; PAGE_SIZE],
    /// Pages encoded by number of codec.
    stores: [u64; CodecName::ALL.len() + 1],
}

impl Context {
    /// A context; `level` is that of zstd, which takes some 200 KiB more if it `has_zstd`.
    pub fn new(has_zstd: bool, level: i32) -> Self {
        let mut context = Context {
            zstd: has_zstd.then(|| (CCtx::create(), DCtx::create())),
            level,
            shuffled: Page::ZERO,
            object: [0; PAGE_SIZE],
            rival: [0; PAGE_SIZE],
            stores: [0; CodecName::ALL.len() + 1],
        };
        // zstd takes its tables at the first page: then they are counted, and no store allocates.
        context.encode_scratch(CodecName::Zstd, &Page::ZERO);
        context
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        let zstd = self.zstd.as_ref().map_or(0, |(encoder, decoder)| encoder.sizeof() + decoder.sizeof());
        size_of::<Self>() + zstd
    }

    /// Encodes `page` with `codec`; `None` when that makes no object worth keeping.
    pub fn encode(&mut self, codec: CodecName, page: &Page) -> Option<&[u8]> {
        let length = self.encode_scratch(codec, page)?;
        Some(&self.object[..length])
    }

    fn encode_scratch(&mut self, codec: CodecName, page: &Page) -> Option<usize> {
        let source = match codec.shuffle_width() {
            Some(width) => {
                shuffle::shuffle(page, width, &mut self.shuffled);
                &self.shuffled
            }
            None => page,
        };
        // An encoder that runs out of room gives up: the object would be too long to keep.
        let room = &mut self.object[..OBJECT_BYTES_MAX];
        match codec {
            CodecName::Raw => {
                self.object = page.0;
                Some(PAGE_SIZE)
            }
            CodecName::Zstd => self.zstd.as_mut()?.0.compress(room, &source.0, self.level).ok(),
            _ => compress_to_buffer(&source.0, Some(CompressionMode::FAST(1)), false, room).ok(),
        }
    }

    /// Tries the codecs that suit `page` but for `failed`, and leaves the best object in the scratch
    /// buffer; `None` when the page should be kept as it is.
    ///
    /// Only the width at which the page's bytes repeat most is tried. A shuffle has to save 6 % over
    /// plain lz4: it wins on numbers, where it is also faster to decode, and is kept away from heaps.
    fn encode_best(&mut self, page: &Page, failed: Option<CodecName>) -> Option<(CodecName, usize)> {
        let try_codec = |codec: CodecName, context: &mut Self| {
            if failed == Some(codec) { None } else { context.encode_scratch(codec, page) }
        };
        let lz4 = try_codec(CodecName::Lz4, self).map(|length| (CodecName::Lz4, length));
        let (likeness, width) = Width::ALL
            .map(|width| (shuffle::lane_likeness(page, width), width))
            .into_iter()
            .max_by_key(|(likeness, width)| (*likeness, width.bytes()))?;
        if likeness < LIKENESS_MIN {
            return lz4;
        }
        std::mem::swap(&mut self.object, &mut self.rival);
        let codec = CodecName::of_shuffle(width);
        if let Some(length) = try_codec(codec, self) {
            let to_beat = lz4.map_or(PAGE_SIZE, |(_, length)| length);
            if length * 100 <= to_beat * 94 {
                return Some((codec, length));
            }
        }
        std::mem::swap(&mut self.object, &mut self.rival);
        lz4
    }

    /// Decodes an object of zstd, which needs a context. The others do not: see [`decode`].
    pub fn decode_zstd(&mut self, object: &[u8], out: &mut Page) -> Result<(), &'static str> {
        let (_, decoder) = self.zstd.as_mut().ok_or("this pool has no zstd decoder")?;
        match decoder.decompress(&mut out.0[..], object) {
            Ok(PAGE_SIZE) => Ok(()),
            Ok(_) => Err("a zstd object of the wrong length"),
            Err(_) => Err("a damaged zstd object"),
        }
    }
}

/// Decodes any object but one of zstd into `out`.
///
/// # Errors
/// The object is damaged; `out` means nothing then.
pub fn decode(codec: CodecName, object: &[u8], out: &mut Page) -> Result<(), &'static str> {
    match codec {
        CodecName::Raw => {
            out.0 = object.try_into().map_err(|_| "a raw object of the wrong length")?;
            Ok(())
        }
        CodecName::Zstd => Err("a zstd object needs a context"),
        CodecName::Lz4 => decode_lz4(object, out),
        CodecName::Shuffle2 => decode_shuffled(Width::Two, object, out),
        CodecName::Shuffle4 => decode_shuffled(Width::Four, object, out),
        CodecName::Shuffle8 => decode_shuffled(Width::Eight, object, out),
    }
}

fn decode_shuffled(width: Width, object: &[u8], out: &mut Page) -> Result<(), &'static str> {
    let mut shuffled = Page::ZERO;
    decode_lz4(object, &mut shuffled)?;
    shuffle::unshuffle(&shuffled, width, out);
    Ok(())
}

fn decode_lz4(object: &[u8], out: &mut Page) -> Result<(), &'static str> {
    match decompress_to_buffer(object, Some(PAGE_SIZE as i32), &mut out.0) {
        Ok(PAGE_SIZE) => Ok(()),
        Ok(_) => Err("an lz4 object of the wrong length"),
        Err(_) => Err("a damaged lz4 object"),
    }
}

/// Contexts that threads share.
pub struct Contexts(Box<[Mutex<Context>]>);

impl Contexts {
    /// Two for every processor: a thread that finds its own taken finds another free.
    pub fn new(has_zstd: bool, level: i32) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let count = (2 * processors).clamp(2, CONTEXTS_MAX);
        Contexts((0..count).map(|_| Mutex::new(Context::new(has_zstd, level))).collect())
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|context| lock(context).bytes()).sum()
    }

    /// Pages encoded so far, by number of codec.
    pub fn stores_by_codec(&self) -> [u64; CodecName::ALL.len() + 1] {
        let mut total = [0; CodecName::ALL.len() + 1];
        for context in &self.0 {
            for (sum, part) in total.iter_mut().zip(lock(context).stores) {
                *sum += part;
            }
        }
        total
    }

    /// A context for work on `key`.
    pub fn take(&self, key: Key) -> MutexGuard<'_, Context> {
        let first = key.spread();
        for try_number in 0..self.0.len() {
            match self.0[(first + try_number) % self.0.len()].try_lock() {
                Ok(context) => return context,
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        lock(&self.0[first % self.0.len()])
    }
}

fn lock(context: &Mutex<Context>) -> MutexGuard<'_, Context> {
    // A context holds no state between two pages that a panic could have spoilt.
    context.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// At 12 KiB each without zstd, this many take less than 1 MiB.
const CONTEXTS_MAX: usize = 64;

/// Below this likeness in 256ths no lane repeats enough for a shuffle to win: text has 15 to 25,
/// decimals in floating point 30 to 50, integers 100 and more.
const LIKENESS_MIN: usize = 51;

/// Neighbourhoods are pages that a program allocates and uses together.
const NEIGHBOURHOOD_PAGES: u64 = 64;

fn neighbourhood(key: Key) -> u64 {
    (key.offset.0 / NEIGHBOURHOOD_PAGES)
        .wrapping_add(u64::from(key.area.0).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// What was learnt about neighbourhoods: a table of fixed size in which distant ones may meet. That
/// costs a worse choice, never a wrong page.
pub struct Memory(Box<[AtomicU16]>);

/// 4096 neighbourhoods are 1 GiB of pages.
const MEMORY_ENTRIES: usize = 4096;
/// Pages until the next trial, at first and at most, as powers of two.
const TRUST_LOG2_MIN: u16 = 3;
const TRUST_LOG2_MAX: u16 = 6;
/// Random bytes are alike in one place of 256; below this a page is taken for noise without a trial.
const LIKENESS_OF_NOISE_MAX: usize = 4;

impl Default for Memory {
    fn default() -> Self {
        Memory((0..MEMORY_ENTRIES).map(|_| AtomicU16::new(0)).collect())
    }
}

/// One remembered choice: bits 0 to 3 codec, 4 to 7 trust, 8 to 15 pages until the next trial.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Memo {
    codec: Option<CodecName>,
    trust_log2: u16,
    pages_left: u16,
}

impl Memo {
    fn from_bits(bits: u16) -> Self {
        Memo {
            codec: CodecName::from_number(u32::from(bits & 15)),
            trust_log2: bits >> 4 & 15,
            pages_left: bits >> 8,
        }
    }

    fn to_bits(self) -> u16 {
        self.codec.map_or(0, |codec| codec as u16) | self.trust_log2 << 4 | self.pages_left << 8
    }
}

impl Memory {
    /// Bytes of every memory.
    pub const BYTES: u64 = (MEMORY_ENTRIES * 2) as u64;

    /// Encodes `page` by `choice` and by what is remembered near `key`. A page that is kept raw comes
    /// back as it is.
    pub fn encode<'a>(
        &self,
        choice: CodecChoice,
        context: &'a mut Context,
        key: Key,
        page: &'a Page,
    ) -> (CodecName, &'a [u8]) {
        let number = neighbourhood(key);
        let slot = self.slot(number);
        let memo = Memo::from_bits(slot.load(Ordering::Relaxed));
        // A neighbourhood that is new goes on like the one before it.
        let memo = if memo.codec.is_some() { memo } else { self.inherit(number) };
        let mut failed = None;
        if let Some(codec) = memo.codec.filter(|_| memo.pages_left > 0) {
            let encoded = match codec {
                CodecName::Raw if Self::is_noise(choice, page) => Some(PAGE_SIZE),
                CodecName::Raw => None,
                _ => context.encode_scratch(codec, page),
            };
            if let Some(length) = encoded {
                slot.store(Memo { pages_left: memo.pages_left - 1, ..memo }.to_bits(), Ordering::Relaxed);
                return Self::object(codec, context, length, page);
            }
            failed = Some(codec);
        }
        let best = match choice {
            CodecChoice::Auto => context.encode_best(page, failed),
            CodecChoice::Fixed(codec) if failed == Some(codec) => None,
            CodecChoice::Fixed(codec) => context.encode_scratch(codec, page).map(|length| (codec, length)),
        };
        let (codec, length) = best.unwrap_or((CodecName::Raw, PAGE_SIZE));
        let trust_log2 = if memo.codec == Some(codec) {
            (memo.trust_log2 + 1).min(TRUST_LOG2_MAX)
        } else {
            TRUST_LOG2_MIN
        };
        let memo = Memo { codec: Some(codec), trust_log2, pages_left: 1 << trust_log2 };
        slot.store(memo.to_bits(), Ordering::Relaxed);
        Self::object(codec, context, length, page)
    }

    /// Whether a page near others that do not compress is one too. The shape of bytes tells `auto`
    /// about numbers as well; for one codec only a trial now and then does.
    fn is_noise(choice: CodecChoice, page: &Page) -> bool {
        choice != CodecChoice::Auto || shuffle::lane_likeness(page, Width::Eight) <= LIKENESS_OF_NOISE_MAX
    }

    fn inherit(&self, number: u64) -> Memo {
        let before = Memo::from_bits(self.slot(number.wrapping_sub(1)).load(Ordering::Relaxed));
        let trust_log2 = before.trust_log2.clamp(TRUST_LOG2_MIN, TRUST_LOG2_MAX - 1);
        Memo { trust_log2, pages_left: 1 << trust_log2, ..before }
    }

    fn slot(&self, number: u64) -> &AtomicU16 {
        &self.0[number as usize % MEMORY_ENTRIES]
    }

    fn object<'a>(
        codec: CodecName,
        context: &'a mut Context,
        length: usize,
        page: &'a Page,
    ) -> (CodecName, &'a [u8]) {
        context.stores[codec as usize] += 1;
        (codec, if codec == CodecName::Raw { &page.0 } else { &context.object[..length] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counters() -> Page {
        let mut page = Page::ZERO;
        for (index, bytes) in page.0.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *bytes = (1_000_000 + 3 * index as u64).to_le_bytes();
        }
        page
    }

    fn noise(seed: u64) -> Page {
        let mut page = Page::ZERO;
        let mut state = seed | 1;
        for bytes in page.0.as_chunks_mut::<8>().0 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *bytes = (state ^ state >> 29).to_le_bytes();
        }
        page
    }

    fn text() -> Page {
        let mut page = Page::ZERO;
        let words = ["page ", "swap ", "frontswap ", "memory ", "reclaim ", "the ", "a ", "store\n"];
        let mut at = 0;
        for step in 0usize.. {
            let word = words[(step * step + step / 3) % words.len()].as_bytes();
            let Some(room) = page.0.get_mut(at..at + word.len()) else { break };
            room.copy_from_slice(word);
            at += word.len();
        }
        page
    }

    #[test]
    fn auto_takes_shuffle_for_numbers_lz4_for_text_and_raw_for_noise() {
        let mut context = Context::new(false, 1);
        for (page, expected) in
            [(counters(), CodecName::Shuffle8), (text(), CodecName::Lz4), (noise(1), CodecName::Raw)]
        {
            let memory = Memory::default();
            for offset in 0..40 {
                let key = Key::new(0, offset);
                let (codec, object) = memory.encode(CodecChoice::Auto, &mut context, key, &page);
                assert_eq!(codec, expected);
                let mut out = Page::ZERO;
                decode(codec, object, &mut out).unwrap();
                assert!(out == page);
            }
        }
    }

    #[test]
    fn pages_among_noise_and_noise_among_pages_get_what_they_need() {
        let mut context = Context::new(false, 1);
        let memory = Memory::default();
        for offset in 0..200 {
            let (page, expected) = match offset % 3 {
                0 => (noise(offset), CodecName::Raw),
                1 => (text(), CodecName::Lz4),
                _ => (counters(), CodecName::Shuffle8),
            };
            let key = Key::new(0, offset);
            let (codec, object) = memory.encode(CodecChoice::Auto, &mut context, key, &page);
            assert!(
                codec == expected || expected != CodecName::Raw && object.len() < 3000,
                "{offset}: {codec:?}"
            );
        }
    }

    #[test]
    fn a_neighbourhood_that_changes_is_tried_again() {
        let mut context = Context::new(false, 1);
        let memory = Memory::default();
        for offset in 0..32 {
            memory.encode(
                CodecChoice::Fixed(CodecName::Lz4),
                &mut context,
                Key::new(0, offset),
                &noise(offset),
            );
        }
        let tried = (0..80u64)
            .map(|step| {
                let lz4 = CodecChoice::Fixed(CodecName::Lz4);
                memory.encode(lz4, &mut context, Key::new(0, step % 64), &counters()).0
            })
            .take_while(|codec| *codec == CodecName::Raw)
            .count();
        assert!(tried <= 64, "raw {tried} times");
    }

    proptest! {
        #[test]
        fn every_codec_gives_the_page_back(seed: u64, mixed in 0usize..PAGE_SIZE) {
            let mut context = Context::new(true, 3);
            let mut page = noise(seed);
            page.0[mixed..].copy_from_slice(&counters().0[mixed..]);
            for codec in CodecName::ALL {
                let Some(object) = context.encode(codec, &page).map(<[u8]>::to_vec) else { continue };
                let mut out = Page::ZERO;
                match codec {
                    CodecName::Zstd => context.decode_zstd(&object, &mut out).unwrap(),
                    _ => decode(codec, &object, &mut out).unwrap(),
                }
                prop_assert!(out == page, "{:?}", codec);
            }
        }

        #[test]
        fn damaged_objects_are_errors_or_wrong_pages_but_never_crashes(
            number in 1u32..7, object in prop::collection::vec(any::<u8>(), 0..PAGE_SIZE + 1)
        ) {
            let codec = CodecName::from_number(number).unwrap();
            let mut out = Page::ZERO;
            let _ = decode(codec, &object, &mut out);
            let _ = Context::new(true, 1).decode_zstd(&object, &mut out);
        }
    }
}
