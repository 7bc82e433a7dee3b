//! Tests of framing: lines, quotes, records that are too long, and that neither pieces nor blocks
//! show.

use super::*;
use proptest::prelude::*;

const CSV: Framing = Framing::Csv {
    delimiter: b',',
    blank_lines: false,
};

/// (line, text)
type Records = Vec<(u64, String)>;

/// Hands the input over in pieces of `piece` bytes and takes blocks of `rows` rows.
fn frame(framing: Framing, input: &[u8], piece: usize, rows: usize) -> Records {
    frame_on(RecordBuffer::new(framing), input, piece, rows, usize::MAX).0
}

/// Takes at most `n_blocks` blocks; returns where the next record begins as well.
fn frame_on(
    mut buffer: RecordBuffer,
    input: &[u8],
    piece: usize,
    rows: usize,
    n_blocks: usize,
) -> (Records, (u64, u64)) {
    let (mut pieces, mut found, mut ended) = (input.chunks(piece), Vec::new(), false);
    let mut n_left = n_blocks;
    loop {
        if n_left == 0 {
            return (found, buffer.position());
        }
        let full = buffer.frame(rows).unwrap();
        if full || ended {
            n_left -= 1;
            let block = buffer.block();
            found.extend(block.records.iter().map(|r| {
                (
                    r.line,
                    String::from_utf8_lossy(&block.bytes[r.text()]).into_owned(),
                )
            }));
            buffer.consume();
        }
        if full {
            continue;
        }
        match pieces.next() {
            Some(mut bytes) => assert!(buffer.fill(&mut bytes).unwrap() > 0),
            None if ended => return (found, buffer.position()),
            None => {
                buffer.end_input();
                ended = true;
            }
        }
    }
}

fn check(framing: Framing, input: &str, expected: &[(u64, &str)]) {
    let expected: Vec<(u64, String)> = expected
        .iter()
        .map(|(line, text)| (*line, (*text).to_owned()))
        .collect();
    for (piece, rows) in [(1, 1), (2, 3), (7, 2), (1000, 1000)] {
        assert_eq!(
            frame(framing, input.as_bytes(), piece, rows),
            expected,
            "{input:?} in pieces of {piece}, {rows} rows"
        );
    }
}

#[test]
fn lines_are_cut_and_counted() {
    check(
        Framing::Lines,
        "a\n\nb\r\nc",
        &[(1, "a"), (2, ""), (3, "b"), (4, "c")],
    );
    check(Framing::Json, "{}\n \t\r\n\n{}\n", &[(1, "{}"), (4, "{}")]);
    check(CSV, "\na,b\r\n\r\nc,d", &[(2, "a,b"), (4, "c,d")]);
    check(CSV, "", &[]);
    check(CSV, "\n", &[]);
}

#[test]
fn quotes_hold_line_ends() {
    check(CSV, "1,\"a\nb\"\n2,c\n", &[(1, "1,\"a\nb\""), (3, "2,c")]);
    check(
        CSV,
        "\"a\"\"\n\",1\n2,c\n",
        &[(1, "\"a\"\"\n\",1"), (3, "2,c")],
    );
    check(
        CSV,
        "5\" disk,1\n6\" disk,2\n",
        &[(1, "5\" disk,1"), (2, "6\" disk,2")],
    );
    check(CSV, "1,\"\"\n2,\"x\"", &[(1, "1,\"\""), (2, "2,\"x\"")]);
}

#[test]
fn what_an_open_quote_encloses_is_no_record_of_its_own() {
    check(CSV, "1,\"a\n2,b\n3,c\n", &[(1, "1,\"a\n2,b\n3,c")]);
    check(CSV, "1,\"a\n2,b\n3,c", &[(1, "1,\"a\n2,b\n3,c")]);
    check(CSV, "1,a\n2,\"", &[(1, "1,a"), (2, "2,\"")]);
    check(CSV, "1,a\n2,\"\n", &[(1, "1,a"), (2, "2,\"")]);
}

#[test]
fn a_large_quoted_field_is_a_field() {
    let field = format!("\"{}\"", "line of text, \"\"quoted\"\"\r\n".repeat(60_000));
    let n_lines = 60_000;
    let found = frame(CSV, format!("1,{field}\n2,b\n").as_bytes(), 10_000, 10);
    assert_eq!(
        found
            .iter()
            .map(|(line, text)| (*line, text.len()))
            .collect::<Vec<_>>(),
        [(1, field.len() + 2), (n_lines + 2, 3)]
    );
}

#[test]
fn a_quote_that_is_not_closed_within_the_limit_is_refused_by_name() {
    let mut buffer = RecordBuffer::new(CSV);
    let text = format!("a,b\nc,\"{}", "x\n".repeat(RECORD_BYTES_MAX / 2));
    let mut input = text.as_bytes();
    let error = loop {
        assert!(buffer.fill(&mut input).unwrap() > 0);
        if let Err(error) = buffer.frame(2) {
            break error;
        }
    };
    assert_eq!(
        (error.code().id, error.message()),
        (
            "S3003",
            "line 2 has a quote that is not closed within 16 MiB"
        )
    );
}

#[test]
fn a_mark_at_the_begin_belongs_to_no_record() {
    for (input, expected) in [
        ("\u{feff}a\nb", vec!["a", "b"]),
        ("\u{feff}", vec![]),
        ("a\u{feff}", vec!["a\u{feff}"]),
        ("", vec![]),
    ] {
        for piece in [1, 2, 100] {
            let mut buffer = RecordBuffer::new(Framing::Lines);
            buffer.pass_over_mark();
            let (found, (byte, _)) = frame_on(buffer, input.as_bytes(), piece, 10, usize::MAX);
            assert_eq!(
                found.into_iter().map(|(_, text)| text).collect::<Vec<_>>(),
                expected
            );
            assert!(byte >= input.len() as u64, "the mark counts");
        }
    }
}

#[test]
fn a_blank_line_is_a_record_where_that_is_wanted() {
    check(
        Framing::Csv {
            delimiter: b',',
            blank_lines: true,
        },
        "a\n\n\"\"\n\r\nb",
        &[(1, "a"), (2, ""), (3, "\"\""), (4, ""), (5, "b")],
    );
}

#[test]
fn a_line_without_end_is_refused() {
    let mut buffer = RecordBuffer::new(Framing::Lines);
    let mut input = std::io::repeat(b'x');
    let error = loop {
        buffer.fill(&mut input).unwrap();
        if let Err(error) = buffer.frame(1) {
            break error;
        }
    };
    assert_eq!(
        (error.code().id, error.message()),
        ("S3003", "line 1 is longer than 16 MiB")
    );
}

/// Reads an input as a file is read, skipping records that are too long.
fn frame_skipping(
    framing: Framing,
    mut input: &[u8],
) -> (Records, Vec<(u64, String)>, Vec<(u64, u64)>) {
    let mut buffer = RecordBuffer::new(framing);
    buffer.skip_long_records();
    let (mut found, mut skipped, mut positions, mut ended) =
        (Vec::new(), Vec::new(), Vec::new(), false);
    while !ended {
        while !buffer.frame(2).unwrap() {
            if buffer.fill(&mut input).unwrap() == 0 {
                buffer.end_input();
                ended = !buffer.frame(2).unwrap();
                break;
            }
        }
        let block = buffer.block();
        found.extend(block.records.iter().map(|r| {
            (
                r.line,
                String::from_utf8_lossy(&block.bytes[r.text()]).into_owned(),
            )
        }));
        buffer.consume();
        skipped.extend(
            buffer
                .take_skipped()
                .into_iter()
                .map(|line| (line.position, line.reason)),
        );
        positions.push(buffer.position());
        assert!(
            buffer.bytes.len() <= 4 * RECORD_BYTES_MAX,
            "the record is kept"
        );
    }
    assert!(buffer.long.is_none() && buffer.rest().is_empty());
    (found, skipped, positions)
}

#[test]
fn records_that_are_too_long_are_left_out_if_that_is_wanted() {
    let reason = |n_bytes: usize| format!("it is longer than 16 MiB: it has {n_bytes} bytes");
    for n_bytes in [RECORD_BYTES_MAX + 1, 5 * RECORD_BYTES_MAX] {
        let long = "x".repeat(n_bytes);
        for end in ["", "\n"] {
            let (found, skipped, positions) = frame_skipping(
                Framing::Lines,
                format!("a\n{long}\nb\n{long}{end}").as_bytes(),
            );
            assert_eq!(found, [(1, "a".to_owned()), (3, "b".to_owned())]);
            assert_eq!(skipped, [(2, reason(n_bytes)), (4, reason(n_bytes))]);
            let n_bytes = n_bytes as u64;
            // An incomplete line is where reading continues, until all of it was seen; then that is
            // after `b`.
            assert!(positions.contains(&(n_bytes + 5, 4)), "{positions:?}");
            assert_eq!(
                positions[0],
                if n_bytes > 2 * RECORD_BYTES_MAX as u64 {
                    (2, 2)
                } else {
                    (n_bytes + 5, 4)
                }
            );
            // With the line end that `end_input` adds.
            assert_eq!(positions.last(), Some(&(2 * n_bytes + 6, 5)));
        }
        // What a quote encloses in such a record makes no rows, whether it is closed or not.
        let (found, skipped, _) =
            frame_skipping(CSV, format!("a,\"{long}\nb,\"\"c\n\"\nd,e\n").as_bytes());
        assert_eq!(
            (found, skipped),
            (vec![(4, "d,e".to_owned())], vec![(1, reason(n_bytes + 11))])
        );
        let (found, skipped, _) = frame_skipping(CSV, format!("a,\"{long}\nb,c\n").as_bytes());
        let reason = format!(
            "a quote in it is not closed: it takes the rest of the input, {} bytes",
            n_bytes + 8
        );
        assert_eq!((found, skipped), (vec![], vec![(1, reason)]));
    }
}

#[test]
fn a_block_ends_with_the_record_that_fills_it() {
    let mut buffer = RecordBuffer::new(Framing::Lines);
    buffer.limit_bytes(4);
    buffer.fill(&mut &b"a\nb\nlonger\nc\nd\n"[..]).unwrap();
    let mut sizes = Vec::new();
    while buffer.frame(100).unwrap() {
        sizes.push(buffer.block().records.len());
        buffer.consume();
    }
    assert_eq!((sizes, buffer.block().records.len()), (vec![2, 1, 2], 0));
}

proptest! {
    #[test]
    fn pieces_and_blocks_do_not_show(input in "[ab,\"\n\r]{0,60}", piece in 1usize..9, rows in 1usize..5) {
        for framing in [Framing::Lines, Framing::Json, CSV] {
            prop_assert_eq!(frame(framing, input.as_bytes(), piece, rows), frame(framing, input.as_bytes(), 1000, 1000));
        }
    }

    #[test]
    fn a_buffer_made_at_a_position_goes_on_there(input in "[ab,\"\n\r]{0,60}", piece in 1usize..9, rows in 1usize..5, n_blocks in 0usize..9) {
        for framing in [Framing::Lines, Framing::Json, CSV] {
            let (mut found, (byte, line)) = frame_on(RecordBuffer::new(framing), input.as_bytes(), piece, rows, n_blocks);
            let rest = &input.as_bytes()[input.len().min(byte as usize)..];
            found.extend(frame_on(RecordBuffer::at(framing, byte, line), rest, piece, rows, usize::MAX).0);
            prop_assert_eq!(found, frame(framing, input.as_bytes(), 1000, 1000));
        }
    }
}
