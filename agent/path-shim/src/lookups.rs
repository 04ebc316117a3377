//! `dlvsym`, by which NCCL finds the functions of libibverbs: it opens the library and asks that handle, so a function of
//! the same name in a preloaded library would never be met. Stood before `dlvsym` itself, two names are answered with
//! functions of ours, which call those that were asked for; everything else is passed on.
//!
//! Passing on has to be a jump, not a call: for `RTLD_NEXT` the loader looks at where it was called from.

use std::{
    arch::naked_asm,
    ffi::{CStr, c_char, c_void},
    mem::transmute,
    ptr::null_mut,
    sync::atomic::{AtomicPtr, Ordering::Relaxed},
};

use crate::{calls::aside, settings, verbs};

type Dlvsym = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char) -> *mut c_void;

/// The loader's own; read by the jump.
static NEXT: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

/// Where there is no other.
unsafe extern "C" fn nothing(_: *mut c_void, _: *const c_char, _: *const c_char) -> *mut c_void {
    null_mut()
}

fn next() -> Dlvsym {
    let mut found = NEXT.load(Relaxed);
    if found.is_null() {
        // SAFETY: the name is NUL-terminated.
        found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"dlvsym".as_ptr()) };
        if found.is_null() {
            found = nothing as Dlvsym as *mut c_void;
        }
        NEXT.store(found, Relaxed);
    }
    // SAFETY: a function of this name has this signature.
    unsafe { transmute::<*mut c_void, Dlvsym>(found) }
}

/// What to answer instead; null to pass the question on. Afterwards `NEXT` is set.
unsafe extern "C" fn divert(handle: *mut c_void, name: *const c_char, version: *const c_char) -> *mut c_void {
    let next = next();
    let of_a_library = handle != libc::RTLD_NEXT && handle != libc::RTLD_DEFAULT;
    if !of_a_library || name.is_null() || settings::get().is_none() {
        return null_mut();
    }
    // SAFETY: the caller's name, NUL-terminated as the loader demands.
    let name_of = unsafe { CStr::from_ptr(name) };
    let Some(instead) = verbs::instead_of(name_of) else { return null_mut() };
    // SAFETY: the caller's own arguments.
    let real = unsafe { next(handle, name, version) };
    if real.is_null() {
        // Asked again, the loader says why not.
        return null_mut();
    }
    aside(|| Some(instead(real))).unwrap_or(null_mut())
}

/// Replaces the loader's function of this name.
///
/// # Safety
/// As the loader's.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn dlvsym(
    handle: *mut c_void,
    name: *const c_char,
    version: *const c_char,
) -> *mut c_void {
    naked_asm!(
        "push rdi",
        "push rsi",
        "push rdx",
        "call {divert}",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "test rax, rax",
        "jne 2f",
        "mov rax, qword ptr [rip + {next}]",
        "jmp rax",
        "2:",
        "ret",
        divert = sym divert,
        next = sym NEXT,
    )
}

/// Replaces the loader's function of this name.
///
/// # Safety
/// As the loader's.
#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn dlvsym(
    handle: *mut c_void,
    name: *const c_char,
    version: *const c_char,
) -> *mut c_void {
    naked_asm!(
        "stp x0, x1, [sp, #-32]!",
        "stp x2, x30, [sp, #16]",
        "bl {divert}",
        "mov x9, x0",
        "ldp x2, x30, [sp, #16]",
        "ldp x0, x1, [sp], #32",
        "cbnz x9, 2f",
        "adrp x16, {next}",
        "ldr x16, [x16, :lo12:{next}]",
        "br x16",
        "2:",
        "mov x0, x9",
        "ret",
        divert = sym divert,
        next = sym NEXT,
    )
}
