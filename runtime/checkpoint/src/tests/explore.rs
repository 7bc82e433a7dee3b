//! Visits every state that can be reached.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// A state takes a kilobyte or two.
const STATES_MAX: usize = 1_000_000;

/// Visits every state once, and says which lead where.
pub fn explore<T: Clone + Eq + Hash>(
    start: T,
    next: impl Fn(&T) -> Vec<T>,
) -> (Vec<T>, Vec<Vec<usize>>) {
    let (mut states, mut edges) = (vec![start.clone()], Vec::new());
    let mut known = HashMap::from([(start, 0)]);
    while edges.len() < states.len() {
        assert!(states.len() < STATES_MAX, "the bounds are too wide");
        let mut out = Vec::new();
        for state in next(&states[edges.len()]) {
            out.push(*known.entry(state.clone()).or_insert_with(|| {
                states.push(state);
                states.len() - 1
            }));
        }
        edges.push(out);
    }
    (states, edges)
}

/// Which states lead to one of `ends`.
pub fn reaching(edges: &[Vec<usize>], ends: &[usize]) -> Vec<bool> {
    let mut back = vec![Vec::new(); edges.len()];
    for (from, out) in edges.iter().enumerate() {
        out.iter().for_each(|to| back[*to].push(from));
    }
    let (mut reach, mut open) = (vec![false; edges.len()], ends.to_vec());
    let mut seen: HashSet<usize> = open.iter().copied().collect();
    while let Some(state) = open.pop() {
        reach[state] = true;
        open.extend(
            back[state]
                .iter()
                .copied()
                .filter(|from| seen.insert(*from)),
        );
    }
    reach
}
