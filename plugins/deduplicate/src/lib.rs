//! deduplicate: lets the first row of each key pass, and drops those that follow.
//!
//! A ready-made component: a `job.toml` names the function `deduplicate` and, as `key`, the columns
//! that make two rows the same. It reads no column: the key stays in the host, and the guest only
//! names the rows that pass. State: one flag per key, for ever. Tested end to end, in
//! `tests/tests/job_toml.rs`.

use streamrt_sdk::prelude::*;

#[derive(Default)]
struct Deduplicate {
    seen: ValueState<bool>,
}

impl ProcessFunction for Deduplicate {
    type In = ();
    type Key = ();
    type Out = Forward;

    const TIME: bool = false;
    const TIMERS: bool = false;

    fn open(&mut self, setup: &mut Setup) {
        self.seen = setup.value("seen");
    }

    fn on_element(
        &mut self,
        _row: &(),
        _ctx: &mut Context<'_, ()>,
        out: &mut Collector<Forward>,
    ) -> Result<()> {
        if self.seen.is_set() {
            return Ok(());
        }
        self.seen.set(true);
        out.forward()
    }
}

fn functions(library: &mut Library) {
    library.process("deduplicate", Deduplicate::default());
}

streamrt_sdk::library!(functions);
