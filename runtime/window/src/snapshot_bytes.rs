//! The fields of what this crate puts into a snapshot, one after the other, numbers little endian.
//!
//! Invariant: nothing here panics, whatever the bytes are.

use streamrt_types::{Error, Result, code};

pub(crate) fn damaged(what: &str) -> Error {
    Error::new(
        code::SNAPSHOT_DAMAGED,
        format!("the snapshot holds {what} that cannot be"),
    )
}

/// Takes fields off the front of an entry or item.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
    /// For the error, for example `a window`.
    what: &'static str,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Fields<'a> {
        Fields { rest: bytes, what }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (front, rest) = self
            .rest
            .split_first_chunk()
            .ok_or_else(|| damaged(self.what))?;
        self.rest = rest;
        Ok(*front)
    }

    /// # Errors
    /// `Data` if the bytes end too soon, or are not such a field. The same holds for the other
    ///  methods.
    pub(crate) fn flag(&mut self) -> Result<bool> {
        match self.array()? {
            [byte @ 0..=1] => Ok(byte == 1),
            _ => Err(damaged(self.what)),
        }
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// A time of [`ordered`].
    pub(crate) fn time(&mut self) -> Result<i64> {
        Ok((u64::from_be_bytes(self.array()?) ^ SIGN) as i64)
    }

    /// A byte string, preceded by its length.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8]> {
        let length = self.u32()? as usize;
        let (front, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or_else(|| damaged(self.what))?;
        self.rest = rest;
        Ok(front)
    }

    /// Everything after the fields so far.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn end(self) -> Result<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(damaged(self.what))
        }
    }
}

const SIGN: u64 = 1 << 63;

/// A time in bytes that order as the times do.
pub(crate) fn ordered(time: i64) -> [u8; 8] {
    (time as u64 ^ SIGN).to_be_bytes()
}

/// Appends a byte string of less than 4 GiB, preceded by its length.
pub(crate) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_order_as_bytes_and_come_back() {
        let times = [i64::MIN, -5, -1, 0, 1, 300, i64::MAX];
        assert!(times.map(ordered).is_sorted());
        times.iter().for_each(|&time| {
            assert_eq!(Fields::new(&ordered(time), "a time").time().unwrap(), time)
        });
    }

    #[test]
    fn bytes_that_end_too_soon_are_an_error() {
        let mut bytes = vec![1];
        put_bytes(b"abc", &mut bytes);
        let read = |bytes: &[u8]| -> Result<()> {
            let mut fields = Fields::new(bytes, "a row");
            assert!(fields.flag()?);
            assert_eq!(fields.bytes()?, b"abc");
            fields.end()
        };
        read(&bytes).unwrap();
        (0..bytes.len()).for_each(|cut| {
            assert_eq!(
                read(&bytes[..cut]).unwrap_err().message(),
                "the snapshot holds a row that cannot be"
            )
        });
        assert!(read(&[&bytes[..], &[0]].concat()).is_err());
        assert!(Fields::new(&[2], "a flag").flag().is_err());
    }
}
