//! The system behind the sinks: transactions, and which records were committed.

use std::collections::BTreeMap;

/// A transaction of a sink task: (job, generation, task, checkpoint).
pub type Transaction = (String, u64, usize, u64);

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Pending(Vec<u64>),
    Committed,
    Withdrawn,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Ledger {
    transactions: BTreeMap<Transaction, State>,
    committed: BTreeMap<u64, Transaction>,
}

impl Ledger {
    /// Pre-commits records.
    ///
    /// # Errors
    /// If the name was used before.
    pub fn write(&mut self, name: Transaction, records: Vec<u64>) -> Result<(), String> {
        let written = State::Pending(records);
        match self.transactions.insert(name.clone(), written) {
            None => Ok(()),
            Some(_) => Err(format!("the transaction {name:?} was written twice")),
        }
    }

    /// Commits; once more is no fault.
    ///
    /// # Errors
    /// If it was withdrawn, is not known, or holds a record that is committed already.
    pub fn commit(&mut self, name: &Transaction) -> Result<(), String> {
        let refuse = |why: &str| Err(format!("{name:?} is to be committed, and {why}"));
        let records = match self.transactions.get_mut(name) {
            None => return refuse("is not known"),
            Some(State::Withdrawn) => return refuse("was withdrawn"),
            Some(State::Committed) => return Ok(()),
            Some(State::Pending(records)) => std::mem::take(records),
        };
        self.transactions.insert(name.clone(), State::Committed);
        for record in records {
            if let Some(before) = self.committed.insert(record, name.clone()) {
                return Err(format!(
                    "record {record} was committed by {before:?} and by {name:?}"
                ));
            }
        }
        Ok(())
    }

    /// Withdraws what is not committed and not listed, of these tasks, as sinks do by the name of
    /// their job.
    pub fn withdraw(&mut self, job: &str, tasks: &[usize], listed: &[Transaction]) {
        for (name, state) in &mut self.transactions {
            let is_theirs = name.0 == job && tasks.contains(&name.2);
            if is_theirs && !listed.contains(name) && matches!(state, State::Pending(_)) {
                *state = State::Withdrawn;
            }
        }
    }

    /// How many records are committed.
    pub fn n_committed(&self) -> usize {
        self.committed.len()
    }

    /// A transaction that is neither committed nor withdrawn.
    pub fn left_behind(&self) -> Option<&Transaction> {
        let mut all = self.transactions.iter();
        let found = all.find(|(_, state)| matches!(state, State::Pending(_)));
        found.map(|(name, _)| name)
    }
}
