//! Libraries that the process has loaded anyway.

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

/// A handle to one, for as long as something is looked up in it.
pub struct Loaded(NonNull<c_void>);

impl Loaded {
    /// The library of that name, if somebody has loaded it: nothing is opened that was not.
    pub fn find(name: &CStr) -> Option<Self> {
        // SAFETY: a C string; NOLOAD opens nothing new.
        NonNull::new(unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_LAZY) }).map(Self)
    }

    /// What a symbol stands for, in it or in what it depends on. It stays there: others hold the library.
    pub fn symbol(&self, name: &CStr) -> Option<NonNull<c_void>> {
        // SAFETY: an open library and a C string.
        NonNull::new(unsafe { libc::dlsym(self.0.as_ptr(), name.as_ptr()) })
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // SAFETY: opened in `find`, and closed once.
        unsafe { libc::dlclose(self.0.as_ptr()) };
    }
}
