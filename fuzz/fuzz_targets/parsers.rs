//! The parsers of the Rust side: names of codecs and rejections, and the words of a map entry.

#![no_main]

use frontswap::Reject;
use frontswap::place::{Place, RECORD_WORDS, Record};
use frontswap_backends::{CodecChoice, CodecName};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, [u32; RECORD_WORDS])| {
    let (name, words) = input;
    check_codec(name);
    check_reject(name);
    check_record(words);
});

/// A name is known, or the error repeats it and says what is.
fn check_codec(name: &str) {
    match CodecChoice::from_name(name) {
        Ok(CodecChoice::Auto) => assert_eq!(name, "auto"),
        Ok(CodecChoice::Fixed(codec)) => {
            assert_eq!(codec.name(), name);
            assert_eq!(CodecName::from_number(codec as u32), Some(codec));
        }
        Err(error) => {
            assert!(!CodecChoice::names().contains(&name));
            assert!(error.message().starts_with(&format!("no codec named `{name}`; known: `auto`")));
        }
    }
}

fn check_reject(name: &str) {
    match Reject::from_name(name) {
        Some(reason) => assert_eq!(reason.name(), name),
        None => assert!(Reject::ALL.iter().all(|reason| reason.name() != name)),
    }
}

/// Any words are an entry, and writing it back loses nothing that an entry holds.
fn check_record(words: [u32; RECORD_WORDS]) {
    let record = Record::from_words(words);
    let written = record.to_words();
    if record.place == Place::Vacant {
        assert_eq!(written, [0; RECORD_WORDS]);
    } else {
        assert_eq!(Record::from_words(written), record);
        assert_eq!(written[0] & 3, 0, "the lock's bits are not the record's");
    }
}
