//! User code that can be replaced while its task runs.
//!
//! Every chain of functions that an operator calls sits in a [`Replaceable`]. The task's thread
//! hands it another one between two elements, and from then on the operator calls that. No operator
//! knows of it: state, timers and queues stay where they are.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use streamrt_operator::{Failure, FunctionChain, Invocation, Outcome};
use streamrt_types::{Error, Result};

/// The code of a task, in the order in which its operators were built.
pub(crate) type UserCode = Vec<Box<dyn FunctionChain>>;

/// A chain of functions whose code may be replaced between two calls.
struct Replaceable {
    chain: Box<dyn FunctionChain>,
    next: Receiver<Box<dyn FunctionChain>>,
}

impl FunctionChain for Replaceable {
    fn invoke(
        &mut self,
        invocation: Invocation<'_>,
        deadline: Duration,
    ) -> std::result::Result<Outcome, Failure> {
        if let Some(next) = self.next.try_iter().last() {
            self.chain = next;
        }
        self.chain.invoke(invocation, deadline)
    }
}

/// The seats of a task's code: where each chain of functions is replaced.
#[derive(Default)]
pub(crate) struct Seats {
    seats: Vec<Sender<Box<dyn FunctionChain>>>,
}

impl Seats {
    /// Makes a chain replaceable.
    pub fn take(&mut self, chain: Box<dyn FunctionChain>) -> Box<dyn FunctionChain> {
        let (seat, next) = channel();
        self.seats.push(seat);
        Box::new(Replaceable { chain, next })
    }

    /// Puts other code into the seats, in their order; the next call is to it.
    ///
    /// # Errors
    /// `Internal` if there is not one for each.
    pub fn replace(&self, code: UserCode) -> Result<()> {
        if code.len() != self.seats.len() {
            return Err(Error::internal(format!(
                "a task with {} chains of functions was given {}",
                self.seats.len(),
                code.len()
            )));
        }
        // An operator that is gone calls nobody any more.
        self.seats
            .iter()
            .zip(code)
            .for_each(|(seat, chain)| drop(seat.send(chain)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streamrt_operator::{Call, NoState};

    /// Fails with its name.
    struct Named(&'static str);

    impl FunctionChain for Named {
        fn invoke(
            &mut self,
            _: Invocation<'_>,
            _: Duration,
        ) -> std::result::Result<Outcome, Failure> {
            Err(Error::internal(self.0).into())
        }
    }

    fn who(chain: &mut Box<dyn FunctionChain>) -> String {
        let access = &mut NoState::boxed();
        let invocation = Invocation {
            call: Call::Process,
            rows: None,
            slots: None,
            states: Vec::new(),
            timers: &[],
            clock: None,
            access,
        };
        chain
            .invoke(invocation, Duration::ZERO)
            .unwrap_err()
            .error
            .message()
            .to_owned()
    }

    #[test]
    fn the_next_call_is_to_the_newest_code_of_the_same_seat() {
        let mut seats = Seats::default();
        let mut chains = ["a", "b"].map(|name| seats.take(Box::new(Named(name))));
        let code = |names: [&'static str; 2]| -> UserCode {
            names
                .map(|name| Box::new(Named(name)) as Box<dyn FunctionChain>)
                .into()
        };
        assert_eq!(chains.each_mut().map(who), ["a", "b"]);
        seats.replace(code(["c", "d"])).unwrap();
        seats.replace(code(["e", "f"])).unwrap();
        assert_eq!(chains.each_mut().map(who), ["e", "f"]);
        assert_eq!(chains.each_mut().map(who), ["e", "f"]);
        assert!(seats.replace(UserCode::new()).is_err());
    }
}
