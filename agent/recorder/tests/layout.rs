//! The layout that is written down is the layout that is used.

use std::path::Path;

use c4_recorder::layout::FILE_BYTES;
use c4_recorder::layout::table::{SECTIONS, markdown};

#[test]
fn fields_tile_their_records() {
    for section in SECTIONS.iter().filter(|section| !section.fields.is_empty()) {
        let mut end = 0;
        for field in section.fields {
            let gap = field.offset - end;
            // Before counters that have a cache line of their own, and at the end of a record, there is padding.
            assert!(
                gap == 0 || field.bytes == 64,
                "{}.{} begins at {}, not {end}",
                section.name,
                field.name,
                field.offset
            );
            end = field.offset + field.bytes;
        }
        assert!(
            end <= section.stride && section.stride - end < 64,
            "{} ends at {end} of {}",
            section.name,
            section.stride
        );
    }
}

#[test]
fn sections_follow_each_other() {
    let mut end = 0;
    for section in SECTIONS {
        assert!(section.at >= end, "{} begins at {:#x}, inside the one before", section.name, section.at);
        end = section.at + section.count * section.stride;
    }
    assert!(end <= FILE_BYTES && FILE_BYTES - end < 4096);
}

#[test]
fn the_document_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("LAYOUT.md");
    if std::env::var_os("C4_REWRITE").is_some() {
        std::fs::write(&path, markdown()).expect("the document can be written");
    }
    let document = std::fs::read_to_string(&path).expect("LAYOUT.md is there");
    assert_eq!(document, markdown(), "C4_REWRITE=1 writes it anew");
}
