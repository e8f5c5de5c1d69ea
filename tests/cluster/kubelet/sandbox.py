"""Runs one command as a container: this file is a program of its own, with nothing but the standard library.

    sandbox.py run SPEC CONTROL           starts a container and stays as its parent; ends with its exit code
    sandbox.py exec SPEC CONTROL          starts another process in a container that runs

SPEC is a JSON file; CONTROL a file descriptor on which it says `pid N` once, `error SENTENCE` when the command could
not be started, and which is closed when the command runs.

A container is a process with a mount namespace, whose root is an overlay over this machine's own files; a process
namespace, whose first process it is; names and IPC of its own; and its pod's network. It runs as the user, with the
groups and capabilities that it was given, and dies with whoever started it.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)

NEWNS, NEWUTS, NEWIPC, NEWPID, NEWNET = 0x00020000, 0x04000000, 0x08000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
CAPABILITIES = 41
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
COULD_NOT_START = 128


def check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    done = libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, options.encode() or None)
    check(done, f"mount {source or kind} at {target}")


def bind(source: str, target: str, *, readonly: bool) -> None:
    mount(source, target, flags=MS_BIND | MS_REC)
    if readonly:
        mount("", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def place(root: str, target: str, *, folder: bool) -> str:
    """The mount point `target` below `root`, made where the image has none."""
    path = root + os.path.normpath("/" + target)
    if os.path.lexists(path) and os.path.isdir(path) == folder:
        return path
    if folder:
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    return path


def build(spec: dict[str, Any]) -> str:
    """Mounts the container's root; returns where."""
    root: str = spec["root"]
    for folder in ("upper", "work", "root"):
        os.makedirs(f"{root}/{folder}", exist_ok=True)
    # The root of an overlay is its upper folder's: users other than root must be able to pass.
    os.chmod(f"{root}/upper", 0o755)
    merged = f"{root}/root"
    lower = ":".join(spec["lower"])
    mount("overlay", merged, "overlay", 0, f"lowerdir={lower},upperdir={root}/upper,workdir={root}/work")
    mount("proc", place(merged, "/proc", folder=True), "proc", MS_NOSUID | MS_NODEV)
    bind("/sys", place(merged, "/sys", folder=True), readonly=True)
    dev = place(merged, "/dev", folder=True)
    mount("tmpfs", dev, "tmpfs", MS_NOSUID, "mode=755,size=64k")
    for name in (*DEVICES, *(d for d in spec["devices"] if os.path.exists(f"/dev/{d}"))):
        os.close(os.open(place(merged, f"/dev/{name}", folder=False), os.O_WRONLY | os.O_CREAT))
        bind(f"/dev/{name}", f"{dev}/{name}", readonly=False)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(target, f"{dev}/{name}")
    os.mkdir(f"{dev}/shm")
    # As container runtimes have it: more shared memory than this takes a volume.
    mount("tmpfs", f"{dev}/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=64m")
    for entry in spec["mounts"]:
        if "lower" in entry:
            mount("overlay", place(merged, entry["target"], folder=True), "overlay", MS_RDONLY,
                  f"lowerdir={':'.join(entry['lower'])}")  # fmt: skip
        else:
            source = entry["source"]
            target = place(merged, entry["target"], folder=os.path.isdir(source))
            bind(source, target, readonly=entry["readonly"])
    if spec["readonly"]:
        mount("", merged, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)
    return merged


def become(spec: dict[str, Any]) -> None:
    """The container's user, groups and capabilities, for good."""
    keep = set(spec["capabilities"])
    for number in range(CAPABILITIES):
        if number not in keep:
            libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
    os.setgroups(spec["groups"])
    os.setresgid(spec["gid"], spec["gid"], spec["gid"])
    os.setresuid(spec["uid"], spec["uid"], spec["uid"])
    if spec["no_new_privileges"]:
        check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    # After the change of user, which clears it.
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "parent death signal")


def execute(spec: dict[str, Any]) -> None:
    # What whoever runs the nodes ignores or blocks is no concern of the container's.
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o022)
    try:
        os.chdir(spec["workdir"])
    except OSError as error:
        raise OSError(f"cannot change to the working directory {spec['workdir']!r}: {error.strerror}") from error
    argv = spec["argv"]
    try:
        os.execvpe(argv[0], argv, spec["env"])
    except OSError as error:
        raise OSError(f'exec: "{argv[0]}": {error.strerror}') from error


def prepare_run(spec: dict[str, Any]) -> None:
    root = build(spec)
    libc.sethostname(spec["hostname"].encode(), len(spec["hostname"]))
    # Its output is its user's, who may open it anew by /proc/1/fd/1.
    for stream in (1, 2):
        os.fchown(stream, spec["uid"], spec["gid"])
    os.chroot(root)
    # Where a run folder is missing it is made, as container runtimes do.
    with contextlib.suppress(OSError):
        os.makedirs(spec["workdir"], exist_ok=True)
    os.setsid()


def enter(pid: int) -> None:
    """Into the namespaces and the root of the container whose first process is `pid`."""
    names = ("ipc", "uts", "net", "pid", "mnt")
    handles = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in names]
    root = os.open(f"/proc/{pid}/root", os.O_RDONLY)
    for handle in handles:
        check(libc.setns(handle, 0), "setns")
        os.close(handle)
    os.fchdir(root)
    os.chroot(".")


def main() -> int:
    mode, path, control = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with open(path, encoding="utf-8") as file:
        spec = json.load(file)
    os.set_inheritable(control, False)
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "parent death signal")
    try:
        if mode == "exec":
            enter(spec["pid"])
        else:
            if spec["network"]:
                handle = os.open(spec["network"], os.O_RDONLY)
                check(libc.setns(handle, NEWNET), f"setns {spec['network']}")
                os.close(handle)
            check(libc.unshare(NEWNS | NEWUTS | NEWIPC | NEWPID), "unshare")
            mount("", "/", flags=MS_REC | MS_PRIVATE)
    except OSError as error:
        os.write(control, f"error {error}\n".encode())
        return COULD_NOT_START
    child = os.fork()
    if child == 0:
        try:
            if mode == "run":
                prepare_run(spec)
            become(spec)
            execute(spec)
        except Exception as error:
            os.write(control, f"error {error}\n".encode())
        os._exit(COULD_NOT_START)
    os.write(control, f"pid {child}\n".encode())
    os.close(control)
    # What its parent is sent is not meant for the container: that is signalled by its own id.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


if __name__ == "__main__":
    sys.exit(main())
