//! The open codes of `streamrt-plugin.wit`, under the names that it gives them. The WIT says what
//! each means.

/// Work that `invoke` can be asked for.
pub mod call {
    pub const PROCESS: u16 = 1;
    pub const ACCUMULATE: u16 = 2;
    pub const MERGE: u16 = 3;
    pub const RESULT: u16 = 4;
    pub const WINDOW: u16 = 5;
}

/// Roles of sections.
pub mod section {
    pub const ROWS: u16 = 1;
    pub const SLOTS: u16 = 2;
    pub const STATE: u16 = 3;
    pub const TIMERS: u16 = 4;
    pub const CLOCK: u16 = 5;
    pub const COUNTERS: u16 = 6;
}

/// Roles of buffers.
pub mod buffer {
    pub const COLUMN: u16 = 0;
    pub const TIME: u16 = 1;
    pub const MARK_ROW: u16 = 2;
    pub const MARK_WATERMARK: u16 = 3;
    pub const SLOT: u16 = 4;
    pub const ORIGIN: u16 = 5;
    pub const ACTION: u16 = 6;
    pub const DOMAIN: u16 = 7;
    pub const MARK: u16 = 8;
    pub const OFFSETS: u16 = 9;
    pub const CLOCK: u16 = 10;
    pub const WINDOW_START: u16 = 11;
    pub const WINDOW_END: u16 = 12;
    pub const CURSOR: u16 = 13;
}

/// Parts of a column.
pub mod part {
    pub const VALIDITY: u8 = 0;
    pub const OFFSETS: u8 = 1;
    pub const DATA: u8 = 2;
}

/// What happens to a state entry or a timer.
pub mod action {
    pub const KEEP: u8 = 0;
    pub const SET: u8 = 1;
    pub const CLEAR: u8 = 2;
    /// State only: append to the list.
    pub const APPEND: u8 = 3;
    /// State only: clear all entries of the slot.
    pub const CLEAR_SLOT: u8 = 4;
    /// Value state only: keep, but it was read. It matters for state whose time to live a read
    /// restarts, or that a read may find expired.
    pub const READ: u8 = 5;

    pub const FIRED: u8 = 1;
    pub const REGISTER: u8 = 2;
    pub const DELETE: u8 = 3;
}

/// Time domains of timers.
pub mod domain {
    pub const EVENT_TIME: u8 = 0;
    pub const PROCESSING_TIME: u8 = 1;
}

/// Codes of `error`.
pub mod error {
    pub const USER: u16 = 1;
    pub const ARGUMENTS: u16 = 2;
    pub const UNKNOWN: u16 = 3;
    pub const HOST: u16 = 4;
    pub const STATE: u16 = 5;
    pub const UNAVAILABLE: u16 = 6;
    pub const LOST: u16 = 7;
    pub const MISSING: u16 = 8;
    pub const REFUSED: u16 = 9;
    pub const JOB: u16 = 10;
    pub const MISSING_UID: u16 = 11;
    pub const DOUBLED_UID: u16 = 12;
    pub const COLUMNS: u16 = 13;
}

/// Kinds of entries of a folder.
pub mod entry {
    pub const FILE: u8 = 1;
    pub const FOLDER: u8 = 2;
    pub const OTHER: u8 = 3;
}

/// Levels of `log`.
pub mod level {
    pub const ERROR: u8 = 1;
    pub const WARNING: u8 = 2;
    pub const INFORMATION: u8 = 3;
    pub const DEBUG: u8 = 4;
    pub const TRACE: u8 = 5;
    pub const PANIC: u8 = 9;
}

/// Added to the number of a fired timer to make an origin.
pub const ORIGIN_TIMER: u32 = 1 << 31;

/// The `mark` of a timer that fired by the clock and not by a watermark.
pub const NO_MARK: u32 = u32::MAX;
