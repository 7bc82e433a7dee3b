//! Pages that a snapshot shares with the live state: copied when the live state first writes to one
//! that is still shared.
//!
//! A page is accessed for every row, so the usual case is one test and one pointer; everything else
//! is kept separate.

use std::sync::Arc;

/// A page as a snapshot holds it.
pub(crate) type SharedPage<B> = Arc<Box<B>>;

/// A page of live state.
#[derive(Debug)]
pub(crate) enum Page<B: ?Sized> {
    Own(Box<B>),
    /// A page that also belongs, or belonged, to a snapshot.
    Shared(SharedPage<B>),
    /// A placeholder while one becomes the other.
    Changing,
}

impl<B: ?Sized> Page<B>
where
    Box<B>: Clone,
{
    #[inline(always)]
    pub(crate) fn bytes(&self) -> &B {
        match self {
            Page::Own(bytes) => bytes,
            _ => self.shared_bytes(),
        }
    }

    #[cold]
    fn shared_bytes(&self) -> &B {
        match self {
            Page::Own(bytes) => bytes,
            Page::Shared(bytes) => bytes,
            Page::Changing => unreachable!("nobody sees a page while it changes"),
        }
    }

    #[inline(always)]
    pub(crate) fn bytes_mut(&mut self) -> &mut B {
        match self {
            Page::Own(bytes) => bytes,
            _ => self.unshare(),
        }
    }

    #[cold]
    fn unshare(&mut self) -> &mut B {
        *self = match std::mem::replace(self, Page::Changing) {
            Page::Shared(shared) => {
                Page::Own(Arc::try_unwrap(shared).unwrap_or_else(|shared| (*shared).clone()))
            }
            other => other,
        };
        match self {
            Page::Own(bytes) => bytes,
            _ => unreachable!("the page has just become our own"),
        }
    }

    /// Shares the page with a snapshot.
    pub(crate) fn share(&mut self) -> SharedPage<B> {
        let shared = match std::mem::replace(self, Page::Changing) {
            Page::Own(bytes) => Arc::new(bytes),
            Page::Shared(shared) => shared,
            Page::Changing => unreachable!("nobody sees a page while it changes"),
        };
        *self = Page::Shared(shared.clone());
        shared
    }
}

impl Page<[u8]> {
    pub(crate) fn zeroed(bytes: usize) -> Page<[u8]> {
        Page::Own(vec![0; bytes].into_boxed_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_copies_a_page_only_while_it_is_shared() {
        let mut page = Page::zeroed(8);
        let snapshot = page.share();
        page.bytes_mut()[0] = 7;
        assert_eq!((snapshot[0], page.bytes()[0]), (0, 7));
        let second = page.share();
        let at = second.as_ptr();
        drop(second);
        page.bytes_mut()[0] = 8;
        assert_eq!((page.bytes().as_ptr(), page.bytes()[0]), (at, 8));
    }
}
