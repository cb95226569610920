//! What a worker that serves files gives up before it reads the first byte of a client or of a container: every call of the
//! system that it has no use for, and all memory beyond a bound.
//!
//! * What is listed may be called, and nothing else: no program is run, no process is made or traced, no socket, no mount
//!   and no namespace is touched, and no memory becomes code. A call that is not listed fails as one that this kernel does
//!   not have, for which the C library has another way where there is one.
//! * It holds for the thread that asks for it and for those that it starts, so it is asked for before there are others.
//! * Whose files may be touched is not decided here: the worker has the user, the root and the capabilities for that.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use std::io;

/// Memory of its own. A transfer takes some 100 MiB at most, whatever it transfers.
const MOST_MEMORY: u64 = 512 << 20;

/// Of files and directories.
const FILES: &[libc::c_long] = &[
    libc::SYS_close,
    libc::SYS_copy_file_range,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchdir,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_truncate,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Of memory, time and threads.
const REST: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_eventfd2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_uname,
];

/// What the C library of an older architecture still calls.
#[cfg(target_arch = "x86_64")]
const OLD: &[libc::c_long] = &[
    libc::SYS_access,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_symlink,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[libc::c_long] = &[];

/// See the module. There is no way back.
pub(super) fn confine() -> io::Result<()> {
    limit(Resource::Data, MOST_MEMORY)?;
    // What of a container's files is in our memory is not to lie about.
    limit(Resource::Core, 0)?;
    let program = filter().map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}

/// No more than this, nor than there may be already.
fn limit(what: Resource, most: u64) -> io::Result<()> {
    let most = getrlimit(what).maximum.map_or(most, |before| before.min(most));
    Ok(setrlimit(what, Rlimit { current: Some(most), maximum: Some(most) })?)
}

/// A call that may be made where these bits of an argument are so.
fn is(argument: u8, wanted: u64, bits: u64) -> Result<SeccompRule, BackendError> {
    let how = SeccompCmpOp::MaskedEq(bits);
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Qword, how, wanted)?])
}

fn filter() -> Result<BpfProgram, BackendError> {
    let always = [FILES, REST, OLD].concat().into_iter().map(|call| (call, vec![]));
    let mut rules: BTreeMap<libc::c_long, Vec<SeccompRule>> = always.collect();
    // No memory becomes code.
    let code = u64::from(libc::PROT_EXEC.unsigned_abs());
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![is(2, 0, code)?]);
    }
    // Threads are made, and no processes.
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    rules.insert(libc::SYS_clone, vec![is(0, thread, thread)?]);
    // Threads have names.
    let name = u64::from(libc::PR_SET_NAME.unsigned_abs());
    rules.insert(libc::SYS_prctl, vec![is(0, name, u64::from(u32::MAX))?]);
    // Its own limits are looked at: where a stack ends.
    rules.insert(libc::SYS_prlimit64, vec![is(0, 0, u64::from(u32::MAX))?]);
    let unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let here = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, unknown, SeccompAction::Allow, here)?.try_into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;
    use rustix::net::{AddressFamily, SocketType, socket};
    use std::process::Command;
    use std::sync::mpsc;

    /// In a thread, which alone is confined by it.
    fn confined<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(move || {
            seccompiler::apply_filter(&filter().unwrap()).unwrap();
            work()
        })
        .join()
        .unwrap()
    }

    #[test]
    fn files_are_served_and_nothing_else_is_done() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().to_owned();
        confined(move || {
            assert_eq!(socket(AddressFamily::UNIX, SocketType::STREAM, None).err(), Some(Errno::NOSYS));
            let run = Command::new("/bin/true").status();
            assert_eq!(run.unwrap_err().raw_os_error(), Some(libc::ENOSYS));
            assert_eq!(rustix::process::chroot(".").err(), Some(Errno::NOSYS));
            assert_eq!(rustix::thread::set_no_new_privs(true).err(), Some(Errno::NOSYS));
            std::fs::create_dir(place.join("a")).unwrap();
            std::fs::write(place.join("a/b"), vec![7; 8 << 20]).unwrap();
            std::fs::rename(place.join("a/b"), place.join("c")).unwrap();
            std::fs::copy(place.join("c"), place.join("d")).unwrap();
            std::os::unix::fs::symlink("c", place.join("link")).unwrap();
            assert_eq!(std::fs::canonicalize(place.join("link")).unwrap().file_name().unwrap(), "c");
            std::fs::remove_dir(place.join("a")).unwrap();
            // Threads, what they say to each other, and what they wait for.
            let (tell, told) = mpsc::channel();
            std::thread::Builder::new().name("one".into()).spawn(move || tell.send(1).unwrap()).unwrap();
            assert_eq!(told.recv().unwrap(), 1);
            assert!(told.recv_timeout(std::time::Duration::from_millis(10)).is_err());
        });
    }
}
