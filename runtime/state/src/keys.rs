//! Keys of a batch: either eight bytes each, or encoded bytes with offsets. The two are never mixed
//! in one table.

/// What the keys of a table look like; it follows from the key columns, so it is fixed for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// One column of type i64 or u64, as [`streamrt_types::KeyEncoder::fixed`] returns it.
    Fixed,
    /// Anything else, as [`streamrt_types::KeyEncoder::encode`] returns it.
    Bytes,
}

/// The keys of some rows.
#[derive(Debug, Clone, Copy)]
pub enum Keys<'a> {
    Fixed(&'a [u64]),
    /// Key i is `bytes[offsets[i]..offsets[i + 1]]`.
    Bytes {
        bytes: &'a [u8],
        offsets: &'a [u32],
    },
}

impl<'a> Keys<'a> {
    pub fn len(&self) -> usize {
        match self {
            Keys::Fixed(keys) => keys.len(),
            Keys::Bytes { offsets, .. } => offsets.len().saturating_sub(1),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn kind(&self) -> KeyKind {
        match self {
            Keys::Fixed(_) => KeyKind::Fixed,
            Keys::Bytes { .. } => KeyKind::Bytes,
        }
    }

    /// Calls `read` with the canonical bytes of key `row`.
    pub fn with_key<T>(self, row: usize, read: impl FnOnce(&[u8]) -> T) -> T {
        match self {
            Keys::Fixed(keys) => read(&keys[row].to_le_bytes()),
            Keys::Bytes { bytes, offsets } => read(key_at(bytes, offsets, row)),
        }
    }

    /// Keys `start..end`.
    pub fn slice(self, start: usize, end: usize) -> Keys<'a> {
        match self {
            Keys::Fixed(keys) => Keys::Fixed(&keys[start..end]),
            Keys::Bytes { bytes, offsets } => Keys::Bytes {
                bytes,
                offsets: &offsets[start..=end],
            },
        }
    }
}

#[inline]
pub(crate) fn key_at<'a>(bytes: &'a [u8], offsets: &[u32], row: usize) -> &'a [u8] {
    &bytes[offsets[row] as usize..offsets[row + 1] as usize]
}

/// Keys that are collected one by one, with their hashes.
#[derive(Debug)]
pub struct KeyBuffer {
    hashes: Vec<u32>,
    kind: KeyKind,
    fixed: Vec<u64>,
    bytes: Vec<u8>,
    offsets: Vec<u32>,
}

impl KeyBuffer {
    pub fn new(kind: KeyKind) -> KeyBuffer {
        KeyBuffer {
            hashes: Vec::new(),
            kind,
            fixed: Vec::new(),
            bytes: Vec::new(),
            offsets: vec![0],
        }
    }

    pub fn clear(&mut self) {
        self.hashes.clear();
        self.fixed.clear();
        self.bytes.clear();
        self.offsets.truncate(1);
    }

    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Adds key `row` of `keys`, which are of this buffer's kind.
    #[inline]
    pub fn push(&mut self, hash: u32, keys: Keys<'_>, row: usize) {
        self.hashes.push(hash);
        match keys {
            Keys::Fixed(keys) => self.fixed.push(keys[row]),
            Keys::Bytes { bytes, offsets } => self.push_bytes(key_at(bytes, offsets, row)),
        }
    }

    /// Adds a key by its canonical bytes.
    pub fn push_key(&mut self, hash: u32, key: &[u8]) {
        self.hashes.push(hash);
        match self.kind {
            KeyKind::Fixed => self.fixed.push(u64::from_le_bytes(
                key.try_into().expect("fixed keys have eight bytes"),
            )),
            KeyKind::Bytes => self.push_bytes(key),
        }
    }

    fn push_bytes(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.offsets.push(
            u32::try_from(self.bytes.len()).expect("the encoder refuses keys of 4 GiB a batch"),
        );
    }

    /// Whether key `number` is key `row` of `keys`.
    #[inline]
    pub fn equals(&self, number: usize, keys: Keys<'_>, row: usize) -> bool {
        match keys {
            Keys::Fixed(keys) => self.fixed[number] == keys[row],
            Keys::Bytes { bytes, offsets } => {
                key_at(&self.bytes, &self.offsets, number) == key_at(bytes, offsets, row)
            }
        }
    }

    /// Calls `read` with the canonical bytes of key `number`.
    pub fn with_key<T>(&self, number: usize, read: impl FnOnce(&[u8]) -> T) -> T {
        self.keys().with_key(number, read)
    }

    pub fn hashes(&self) -> &[u32] {
        &self.hashes
    }

    pub fn keys(&self) -> Keys<'_> {
        match self.kind {
            KeyKind::Fixed => Keys::Fixed(&self.fixed),
            KeyKind::Bytes => Keys::Bytes {
                bytes: &self.bytes,
                offsets: &self.offsets,
            },
        }
    }
}
