//! Values that are numbered from 1, so a zeroed entry of a table refers to none.

pub(crate) struct Slab<T> {
    values: Vec<T>,
    free: Vec<u64>,
}

impl<T: Default + Clone> Slab<std::sync::Arc<T>> {
    /// The values as they are now, shared: a value that changes later is copied first.
    pub(crate) fn freeze(&self) -> Slab<std::sync::Arc<T>> {
        Slab {
            values: self.values.clone(),
            free: Vec::new(),
        }
    }
}

impl<T: Default> Slab<T> {
    pub(crate) fn new() -> Slab<T> {
        Slab {
            values: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(crate) fn insert(&mut self) -> u64 {
        self.free.pop().unwrap_or_else(|| {
            self.values.push(T::default());
            self.values.len() as u64
        })
    }

    pub(crate) fn get(&self, number: u64) -> &T {
        &self.values[number as usize - 1]
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> &mut T {
        &mut self.values[number as usize - 1]
    }

    pub(crate) fn remove(&mut self, number: u64) {
        *self.get_mut(number) = T::default();
        self.free.push(number);
    }
}
