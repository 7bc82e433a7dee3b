//! Pages that a snapshot shares with the live state: copied when the live state first writes to one that is still shared.

use std::sync::Arc;

/// A page as a snapshot holds it.
pub(crate) type SharedPage = Arc<Box<[u8]>>;

/// A page of live state.
#[derive(Debug)]
pub(crate) enum Page {
    Own(Box<[u8]>),
    /// Also a snapshot's, or it was one's.
    Shared(SharedPage),
}

impl Page {
    pub(crate) fn zeroed(bytes: usize) -> Page {
        Page::Own(vec![0; bytes].into_boxed_slice())
    }

    #[inline(always)]
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Page::Own(bytes) => bytes,
            Page::Shared(bytes) => bytes,
        }
    }

    #[inline(always)]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        if let Page::Shared(_) = self {
            self.unshare();
        }
        match self {
            Page::Own(bytes) => bytes,
            Page::Shared(_) => &mut [],
        }
    }

    #[cold]
    fn unshare(&mut self) {
        if let Page::Shared(shared) = std::mem::replace(self, Page::Own(Box::default())) {
            *self = Page::Own(Arc::try_unwrap(shared).unwrap_or_else(|shared| (*shared).clone()));
        }
    }

    /// Makes the page a snapshot's as well.
    pub(crate) fn share(&mut self) -> SharedPage {
        if let Page::Own(bytes) = self {
            *self = Page::Shared(Arc::new(std::mem::take(bytes)));
        }
        match self {
            Page::Shared(shared) => shared.clone(),
            Page::Own(_) => SharedPage::default(),
        }
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
