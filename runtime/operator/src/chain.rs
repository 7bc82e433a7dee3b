//! Operators that run in one task, one calling the next without a queue in between.
//!
//! A chain is a tree in a flat list: each operator's output ports lead to later operators or to
//! exits (the exchange, at the end of the task). Invariant: an edge leads to an operator of a
//! higher number, so a call never comes back.

use crate::operator::{Operator, OperatorContext, Output};
use crate::source::{SplitEvent, SplitTime};
use std::sync::Arc;
use streamrt_state::{OperatorSnapshot, OperatorState};
use streamrt_types::{Batch, EndOfTime, Error, Result, Status, Target, Watermark};

struct Link {
    operator: Box<dyn Operator>,
    context: OperatorContext,
    /// (port, target) pairs; a port may have several targets, or none, and then its rows are
    /// dropped.
    targets: Vec<(u16, Target)>,
}

/// The operators of one task.
pub struct OperatorChain {
    links: Vec<Link>,
}

/// What receives the output of a chain at its exits.
pub trait Exits {
    fn batch(&mut self, exit: usize, batch: Batch) -> Result<()>;
    fn watermark(&mut self, exit: usize, watermark: Watermark) -> Result<()>;
    fn status(&mut self, exit: usize, status: Status) -> Result<()>;
    /// A split of a source is at its end.
    fn split_finished(&mut self, _exit: usize, _number: u64) -> Result<()> {
        Ok(())
    }
}

struct ChainOutput<'a> {
    targets: &'a [(u16, Target)],
    /// The links after the running one, and the number of the first.
    rest: &'a mut [Link],
    first: usize,
    exits: &'a mut dyn Exits,
}

impl ChainOutput<'_> {
    fn to_operator(
        &mut self,
        number: usize,
        call: &mut dyn FnMut(&mut dyn Operator, &mut dyn Output) -> Result<()>,
    ) -> Result<()> {
        run(
            &mut self.rest[number - self.first..],
            number,
            self.exits,
            call,
        )
    }
}

/// Calls the first of `links`, with the others at its output. A sweep of it ends first.
fn run(
    links: &mut [Link],
    number: usize,
    exits: &mut dyn Exits,
    call: &mut dyn FnMut(&mut dyn Operator, &mut dyn Output) -> Result<()>,
) -> Result<()> {
    let (link, rest) = links
        .split_first_mut()
        .expect("targets were checked when the chain was built");
    let mut output = ChainOutput {
        targets: &link.targets,
        rest,
        first: number + 1,
        exits,
    };
    while link.operator.is_sweeping() {
        link.operator.resume(&mut output)?;
    }
    call(link.operator.as_mut(), &mut output)
}

impl Output for ChainOutput<'_> {
    fn batch(&mut self, port: u16, batch: Batch) -> Result<()> {
        let targets = self.targets;
        let mut batch = Some(batch);
        let mut on_port = targets
            .iter()
            .filter(|(p, _)| *p == port)
            .map(|(_, target)| *target)
            .peekable();
        while let Some(target) = on_port.next() {
            // The last target gets the batch itself; the others share its columns.
            let Some(batch) = (if on_port.peek().is_some() {
                batch.clone()
            } else {
                batch.take()
            }) else {
                break;
            };
            match target {
                Target::Exit(exit) => self.exits.batch(exit, batch)?,
                Target::Operator(number) => {
                    let mut batch = Some(batch);
                    self.to_operator(number, &mut |operator, output| match batch.take() {
                        Some(batch) => operator.batch(batch, output),
                        None => Ok(()),
                    })?;
                }
            }
        }
        Ok(())
    }

    fn watermark(&mut self, watermark: Watermark) -> Result<()> {
        for &(_, target) in self.targets {
            match target {
                Target::Exit(exit) => self.exits.watermark(exit, watermark)?,
                Target::Operator(number) => self.to_operator(number, &mut |operator, output| {
                    operator.watermark(watermark, output)
                })?,
            }
        }
        Ok(())
    }

    fn status(&mut self, status: Status) -> Result<()> {
        for &(_, target) in self.targets {
            match target {
                Target::Exit(exit) => self.exits.status(exit, status)?,
                Target::Operator(number) => self.to_operator(number, &mut |operator, output| {
                    operator.status(status, output)
                })?,
            }
        }
        Ok(())
    }

    fn split(&mut self, event: SplitEvent) -> Result<()> {
        for &(_, target) in self.targets {
            match (target, event) {
                (Target::Operator(number), _) => self
                    .to_operator(number, &mut |operator, output| {
                        operator.split(event, output)
                    })?,
                (Target::Exit(exit), SplitEvent::Finished { number }) => {
                    self.exits.split_finished(exit, number)?
                }
                (Target::Exit(_), _) => {}
            }
        }
        Ok(())
    }
}

impl Default for OperatorChain {
    fn default() -> Self {
        OperatorChain::new()
    }
}

impl OperatorChain {
    pub fn new() -> OperatorChain {
        OperatorChain { links: Vec::new() }
    }

    /// Adds an operator whose ports lead to `targets`, and returns its number. Targets name
    /// operators that are added later.
    pub fn push(
        &mut self,
        operator: Box<dyn Operator>,
        context: OperatorContext,
        targets: Vec<(u16, Target)>,
    ) -> usize {
        let number = self.links.len();
        assert!(
            targets
                .iter()
                .all(|(_, target)| !matches!(target, Target::Operator(n) if *n <= number)),
            "a chain leads forward"
        );
        self.links.push(Link {
            operator,
            context,
            targets,
        });
        number
    }

    /// Opens all operators, the last one first, so that each finds its successors ready.
    pub fn open(&mut self) -> Result<()> {
        let n_links = self.links.len();
        let leads_inside = |link: &Link| {
            link.targets
                .iter()
                .all(|(_, target)| !matches!(target, Target::Operator(n) if *n >= n_links))
        };
        assert!(
            self.links.iter().all(leads_inside),
            "a target of a chain exists"
        );
        self.links
            .iter_mut()
            .rev()
            .try_for_each(|link| link.operator.open(&link.context))
    }

    /// What the operators know of their places, in order.
    pub fn contexts(&self) -> impl Iterator<Item = &OperatorContext> {
        self.links.iter().map(|link| &link.context)
    }

    /// Freezes all operators, between two elements.
    pub fn snapshot(&mut self, checkpoint: u64) -> Result<Vec<(Arc<str>, OperatorSnapshot)>> {
        self.links
            .iter_mut()
            .map(|link| {
                Ok((
                    link.context.uid.clone(),
                    link.operator.snapshot(checkpoint)?,
                ))
            })
            .collect()
    }

    /// Gives every operator what `state_of` has for it.
    ///
    /// # Errors
    /// An operator's own error, or `Invalid` if it leaves a state of the snapshot behind.
    pub fn restore(
        &mut self,
        mut state_of: impl FnMut(&OperatorContext) -> Result<OperatorState>,
    ) -> Result<()> {
        for link in &mut self.links {
            let mut state = state_of(&link.context)?;
            let place =
                |e: streamrt_types::Error| e.at(format_args!("operator `{}`", link.context.uid));
            link.operator.restore(&mut state).map_err(place)?;
            match link.context.configuration.allow_non_restored_state {
                true => state
                    .left_on_disk()
                    .try_for_each(|name| link.context.forget(name))?,
                false => state.check_taken()?,
            }
        }
        Ok(())
    }

    /// Tells all operators that a checkpoint is published, and returns the first error.
    pub fn checkpoint_complete(&mut self, checkpoint: u64) -> Result<()> {
        self.links
            .iter_mut()
            .map(|link| link.operator.checkpoint_complete(checkpoint))
            .fold(Ok(()), |first, next| first.and(next))
    }

    /// Whether results of some operator wait for a checkpoint.
    pub fn awaits_checkpoint(&self) -> bool {
        self.links
            .iter()
            .any(|link| link.operator.awaits_checkpoint())
    }

    /// Calls the operator at the head.
    pub fn head(
        &mut self,
        exits: &mut dyn Exits,
        call: &mut dyn FnMut(&mut dyn Operator, &mut dyn Output) -> Result<()>,
    ) -> Result<()> {
        run(&mut self.links, 0, exits, call)
    }

    /// Uid and bytes of state of each operator.
    pub fn state_bytes(&mut self) -> impl Iterator<Item = (&str, usize)> {
        self.links
            .iter_mut()
            .map(|link| (&*link.context.uid, link.operator.state_bytes()))
    }

    /// How far a split of the reader at the head has come, by the generator that is furthest
    /// behind; `None` if no operator makes watermarks.
    pub fn split_time(&self, number: u64) -> Option<SplitTime> {
        self.links
            .iter()
            .filter_map(|link| link.operator.split_time(number))
            .reduce(SplitTime::min)
    }

    /// When some operator wants to see the clock, in ms.
    pub fn next_processing_time(&self) -> Option<i64> {
        self.links
            .iter()
            .filter_map(|link| link.operator.next_processing_time())
            .min()
    }

    /// Shows the clock to every operator that waits for a time at or before `now_ms`.
    pub fn processing_time(&mut self, now_ms: i64, exits: &mut dyn Exits) -> Result<()> {
        for number in 0..self.links.len() {
            if self.links[number]
                .operator
                .next_processing_time()
                .is_some_and(|time| time <= now_ms)
            {
                run(
                    &mut self.links[number..],
                    number,
                    exits,
                    &mut |operator, output| operator.processing_time(now_ms, output),
                )?;
            }
        }
        Ok(())
    }

    /// Whether some operator has not finished carrying out its last watermark.
    pub fn is_sweeping(&self) -> bool {
        self.links.iter().any(|link| link.operator.is_sweeping())
    }

    /// Carries out the next piece of a sweep: of the last operator that has one, so that what is
    /// sent keeps its order.
    pub fn resume(&mut self, exits: &mut dyn Exits) -> Result<()> {
        let Some(number) = self
            .links
            .iter()
            .rposition(|link| link.operator.is_sweeping())
        else {
            return Ok(());
        };
        let (link, rest) = self.links[number..]
            .split_first_mut()
            .ok_or_else(|| Error::internal("an operator of a chain is gone"))?;
        link.operator.resume(&mut ChainOutput {
            targets: &link.targets,
            rest,
            first: number + 1,
            exits,
        })
    }

    /// Ends the operators in order, so that what one emits last still reaches the next. `end` says
    /// what becomes of things that wait for the clock; `None` if the job was stopped.
    pub fn end_of_input(&mut self, end: Option<EndOfTime>, exits: &mut dyn Exits) -> Result<()> {
        for number in 0..self.links.len() {
            if let Some(end) = end {
                let fires = end == EndOfTime::Fire;
                let mut call = |operator: &mut dyn Operator, output: &mut dyn Output| {
                    operator.end_of_time(fires, output)
                };
                run(&mut self.links[number..], number, exits, &mut call)?;
            }
            run(
                &mut self.links[number..],
                number,
                exits,
                &mut |operator, output| operator.end_of_input(output),
            )?;
        }
        Ok(())
    }

    /// Closes all operators, and returns the first error.
    pub fn close(&mut self) -> Result<()> {
        self.links
            .iter_mut()
            .map(|link| link.operator.close())
            .fold(Ok(()), |first, next| first.and(next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{Harness, batch_of};
    use arrow_array::{ArrayRef, Int64Array};
    use std::sync::{Arc, Mutex};

    type Log = Arc<Mutex<Vec<String>>>;

    /// Logs its calls and passes everything on, rows to two ports.
    struct Named(&'static str, Log);

    impl Named {
        fn log(&self, what: &str) {
            self.1.lock().unwrap().push(format!("{} {what}", self.0));
        }
    }

    impl Operator for Named {
        fn open(&mut self, _: &OperatorContext) -> Result<()> {
            self.log("open");
            Ok(())
        }
        fn batch(&mut self, batch: Batch, output: &mut dyn Output) -> Result<()> {
            self.log("batch");
            output.batch(0, batch.clone())?;
            output.batch(1, batch)
        }
        fn next_processing_time(&self) -> Option<i64> {
            (self.0 == "b").then_some(7)
        }
        fn processing_time(&mut self, now_ms: i64, _: &mut dyn Output) -> Result<()> {
            self.log(&format!("clock {now_ms}"));
            Ok(())
        }
        fn end_of_input(&mut self, output: &mut dyn Output) -> Result<()> {
            self.log("end");
            output.watermark(9)
        }
        fn close(&mut self) -> Result<()> {
            self.log("close");
            if self.0 == "c" {
                Ok(())
            } else {
                Err(streamrt_types::Error::internal(self.0))
            }
        }
    }

    struct LoggedExits(Log);

    impl Exits for LoggedExits {
        fn batch(&mut self, exit: usize, batch: Batch) -> Result<()> {
            self.0
                .lock()
                .unwrap()
                .push(format!("exit {exit}: {} rows", batch.n_rows()));
            Ok(())
        }
        fn watermark(&mut self, exit: usize, watermark: Watermark) -> Result<()> {
            self.0
                .lock()
                .unwrap()
                .push(format!("exit {exit}: watermark {watermark}"));
            Ok(())
        }
        fn status(&mut self, exit: usize, status: Status) -> Result<()> {
            self.0
                .lock()
                .unwrap()
                .push(format!("exit {exit}: {status:?}"));
            Ok(())
        }
    }

    /// `a` leads to `b` on port 0 and to `c` and exit 0 on port 1; `b` and `c` lead to exits 1 and
    /// 2 on port 0. Returns what `run` logs.
    fn check(
        run: impl FnOnce(&mut OperatorChain, &mut LoggedExits) -> Result<()>,
    ) -> (Result<()>, Vec<String>) {
        let log = Log::default();
        let context = Harness::new(Named("x", Log::default())).context;
        let mut chain = OperatorChain::new();
        let tree = [
            (
                "a",
                vec![
                    (0, Target::Operator(1)),
                    (1, Target::Operator(2)),
                    (1, Target::Exit(0)),
                ],
            ),
            ("b", vec![(0, Target::Exit(1))]),
            ("c", vec![(0, Target::Exit(2))]),
        ];
        for (name, targets) in tree {
            chain.push(Box::new(Named(name, log.clone())), context.clone(), targets);
        }
        let done = run(&mut chain, &mut LoggedExits(log.clone()));
        let lines = log.lock().unwrap().clone();
        (done, lines)
    }

    #[test]
    fn rows_follow_their_port_and_watermarks_go_everywhere() {
        let (done, lines) = check(|chain, exits| {
            let mut batch = Some(batch_of([(
                "x",
                Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef,
            )]));
            chain.head(exits, &mut |operator, output| {
                operator.batch(batch.take().unwrap(), output)
            })?;
            chain.head(exits, &mut |operator, output| {
                operator.status(Status::Idle, output)
            })
        });
        done.unwrap();
        let rows = [
            "a batch",
            "b batch",
            "exit 1: 2 rows",
            "c batch",
            "exit 2: 2 rows",
            "exit 0: 2 rows",
        ];
        let status = ["exit 1: Idle", "exit 2: Idle", "exit 0: Idle"];
        assert_eq!(lines, [&rows[..], &status[..]].concat());
    }

    #[test]
    fn operators_open_backwards_and_end_forwards() {
        let (done, lines) = check(|chain, exits| {
            chain.open()?;
            chain.end_of_input(None, exits)
        });
        done.unwrap();
        assert_eq!(lines[..3], ["c open", "b open", "a open"]);
        let ends = [
            "a end",
            "exit 1: watermark 9",
            "exit 2: watermark 9",
            "exit 0: watermark 9",
        ];
        assert_eq!(lines[3..7], ends);
        assert_eq!(
            lines[7..],
            [
                "b end",
                "exit 1: watermark 9",
                "c end",
                "exit 2: watermark 9"
            ]
        );
    }

    #[test]
    fn the_clock_goes_to_those_who_wait_for_it() {
        let (done, lines) = check(|chain, exits| {
            assert_eq!(chain.next_processing_time(), Some(7));
            chain.processing_time(6, exits)?;
            chain.processing_time(8, exits)
        });
        done.unwrap();
        assert_eq!(lines, ["b clock 8"]);
    }

    #[test]
    fn all_are_closed_and_the_first_error_is_kept() {
        let (done, lines) = check(|chain, _| chain.close());
        assert_eq!(
            (done.unwrap_err().message(), lines.join(", ").as_str()),
            ("a", "a close, b close, c close")
        );
    }

    #[test]
    #[should_panic(expected = "a chain leads forward")]
    fn a_chain_does_not_lead_back() {
        let context = Harness::new(Named("x", Log::default())).context;
        OperatorChain::new().push(
            Box::new(Named("a", Log::default())),
            context,
            vec![(0, Target::Operator(0))],
        );
    }
}
