"""The supervisor of one untrusted program: what programs.py starts for each.

Three processes follow one another. The first enters namespaces and waits. The second, process 1 of its own PID
namespace, hides the file system and supervises: when it ends, the kernel ends every process that is left. The third
gives up its privileges, takes on limits, and becomes the interpreter of interpreter.py. Where there are no PID
namespaces the first supervises, and looks for what is left itself.

A program passes if it runs past its last line, which its interpreter proves by a token of the supervisor's.

Only the standard library: what is imported here is imported for every program.
"""

import ctypes
import json
import math
import os
import resource
import signal
import struct
import sys
import time
from contextlib import suppress
from typing import NamedTuple

_CLONE = {"files": 0x00020000, "ipc": 0x08000000, "user": 0x10000000, "processes": 0x20000000, "network": 0x40000000}
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000

_PRIVATE = ("/dev/shm", "/home", "/root", "/run", "/tmp", "/var/tmp")
_NOBODY = 65534
_UNUSED_UIDS = 0x70000000  # far from what anybody hands out
_FOLDER_MIB, _FILE_MIB, _OPEN_FILES = 64, 16, 64
_TOKEN_BYTES = 16
_LINUX = sys.platform == "linux"
_HERE = os.path.dirname(os.path.abspath(__file__))
_LIBC = ctypes.CDLL(None, use_errno=True)


class Isolation(NamedTuple):
    """What separates a program from the system, beside its limits."""

    network: bool = False
    """No network."""
    processes: bool = False
    """Sees no other processes, and leaves none behind."""
    files: bool = False
    """Writes to a folder in memory only; does not see home and temporary folders."""
    user: bool = False
    """Runs as a user who owns nothing, instead of root."""

    def __str__(self) -> str:
        return ", ".join(name for name, there in self._asdict().items() if there) or "none"


class Order(NamedTuple):
    """How to run a program, whose text is the standard input."""

    folder: str
    """Empty, and all that it may write to."""
    interpreter: list[str]
    """Folders without which Python does not start."""
    home: str
    """Whose owner's files are nothing to the program."""
    seconds: float
    """Of CPU time per process."""
    wall_seconds: float
    """Of wall clock."""
    memory_mib: int
    """Address space per process."""
    processes: int
    """Processes and threads at a time."""
    isolation: Isolation


def supervise(order: Order) -> None:
    """Writes what became of the program to the standard output: ``[passed, reason]``.

    Raises:
        OSError: the isolation that is asked for cannot be had.
    """
    present = 0 if order.isolation.user else _threads(os.getuid())
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where memory runs out, programs go first
    _separate(order.isolation)
    uid = _stranger() if order.isolation.user else None
    if uid == _NOBODY:
        present = _threads(uid)
    if order.isolation.processes:
        if child := os.fork():
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if order.isolation.files:
        _hide_files(order)
    if uid is not None:
        os.chown(order.folder, uid, uid)
    if _LINUX:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        _prctl(_PR_SET_DUMPABLE, 0)  # what runs as the same user cannot look into this process
    token = os.urandom(_TOKEN_BYTES)
    child, proof = _start(order, uid, present + order.processes, token)
    outcome = _watch(child, proof, token, order)
    if not order.isolation.processes:
        _kill_descendants(child)
    os.write(1, json.dumps(outcome).encode())


def _separate(isolation: Isolation) -> None:
    """Enters namespaces of this process's own; that of processes, with the next fork."""
    wanted = [name for name in ("network", "processes", "files") if getattr(isolation, name)]
    uid, gid = os.geteuid(), os.getegid()
    if wanted and uid:  # whoever is not root must be one within a namespace of users to enter the others
        _unshare("user")
        for name, content in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(content)
    for name in wanted:
        _unshare(name)
    if isolation.processes:
        _unshare("ipc")


def _hide_files(order: Order) -> None:
    """Makes everything read-only but a new folder, and empties private folders but for the interpreter."""
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)  # what follows is for this namespace only
    needed = {_HERE, *order.interpreter}
    needed = sorted(needed | {os.path.realpath(path) for path in needed})
    opened = [(path, os.open(path, os.O_PATH)) for path in needed]
    private = {os.path.realpath(path) for path in (*_PRIVATE, order.home)}
    private |= {folder for path in needed for folder in _parents(path) if not os.stat(folder).st_mode & 0o001}
    for folder in sorted(private - {"/"}):
        if os.path.isdir(folder):  # it is not, where one that holds it has been emptied
            _mount("tmpfs", folder, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755")
    for path, descriptor in opened:
        if private & {path, *_parents(path)}:
            os.makedirs(path, exist_ok=True)
            _mount(f"/proc/self/fd/{descriptor}", path, None, _MS_BIND | _MS_REC)
        os.close(descriptor)
    os.makedirs(order.folder, exist_ok=True)
    if order.isolation.processes:
        try:
            _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
        except OSError:  # not allowed in many containers; others' processes must not be seen all the same
            _mount("tmpfs", "/proc", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755")
    _make_read_only("/")
    _mount("tmpfs", order.folder, "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={_FOLDER_MIB}m,mode=700")
    os.chdir(order.folder)


def _parents(path: str) -> list[str]:
    parents = []
    while (parent := os.path.dirname(path)) != path:
        parents.append(parent)
        path = parent
    return parents


def _start(order: Order, uid: int | None, processes: int, token: bytes) -> tuple[int, int]:
    """The program's process, and the descriptor from which to read its proof."""
    secret, tell = os.pipe()
    proof, prove = os.pipe()
    failed, fail = os.pipe()  # closed by the exec that succeeds
    os.write(tell, token)
    if child := os.fork():
        for descriptor in (secret, tell, prove, fail):
            os.close(descriptor)
        with open(failed) as file:
            if message := file.read():
                raise OSError(message)
        return child, proof
    try:
        _give_up(order, uid, processes)
        for descriptor in (secret, prove):
            os.set_inheritable(descriptor, True)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        # Not isolated from the environment, which is ours: it settles the order of sets.
        os.execv(sys.executable, [sys.executable, "-sPB", f"{_HERE}/interpreter.py", str(secret), str(prove)])
    except BaseException as error:
        os.write(fail, str(error).encode())
    finally:
        os._exit(1)


def _give_up(order: Order, uid: int | None, processes: int) -> None:
    """Session, privileges and resources."""
    os.setsid()
    if _LINUX:
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    limits = {
        resource.RLIMIT_CPU: math.ceil(order.seconds) + 1,
        resource.RLIMIT_NPROC: processes,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_FSIZE: _FILE_MIB << 20,
        resource.RLIMIT_CORE: 0,
    }
    if _LINUX:  # elsewhere any process maps more than it uses
        limits[resource.RLIMIT_AS] = order.memory_mib << 20
    for limit, value in limits.items():
        hard = resource.getrlimit(limit)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # At the first limit on CPU time comes a signal that says so; who ignores it is killed a second later.
        resource.setrlimit(limit, (max(bound - 1, 1) if limit == resource.RLIMIT_CPU else bound, bound))
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def _watch(child: int, proof: int, token: bytes, order: Order) -> tuple[bool, str]:
    def expire(number: int, frame: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, expire)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, order.wall_seconds)
            _, status, usage = os.wait4(child, 0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except TimeoutError:
        os.kill(child, signal.SIGKILL)
        return False, "timed out"
    status = os.waitstatus_to_exitcode(status)
    os.set_blocking(proof, False)
    try:
        told = os.read(proof, 4096)
    except BlockingIOError:  # a process that it has left behind holds the other end
        told = b""
    if status == 0 and told == token[::-1]:
        return True, "passed"
    if status < 0:
        name = signal.Signals(-status).name
        expired = name == "SIGXCPU" or usage.ru_utime + usage.ru_stime >= order.seconds
        return False, "timed out" if expired else f"killed by {name}"
    reason = "".join(c if c.isprintable() else " " for c in told.decode(errors="replace"))
    return False, reason or "ended before its last line"


def _kill_descendants(child: int) -> None:
    """Without a PID namespace: what remains of the program's session, then whatever its orphans have become."""
    deadline = time.monotonic() + 30  # one that keeps forking faster than it is killed is not waited for
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    while time.monotonic() < deadline:
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        with suppress(FileNotFoundError), open(f"/proc/self/task/{os.getpid()}/children") as file:
            for orphan in file.read().split():
                os.kill(int(orphan), signal.SIGKILL)


def _stranger() -> int:
    """A user whom no other process has, where such a number exists; otherwise nobody."""
    with open("/proc/self/uid_map") as file:
        first, _, count = map(int, file.readline().split())
    uid = _UNUSED_UIDS + os.getpid()
    return uid if first <= uid < first + count else _NOBODY


def _threads(uid: int) -> int:
    """How many the user has already: the limit counts them all."""
    threads = 0
    for process in os.scandir("/proc") if _LINUX else ():
        try:
            if process.name.isdigit() and process.stat().st_uid == uid:
                threads += len(os.listdir(f"/proc/{process.name}/task"))
        except OSError:  # gone meanwhile
            continue
    return threads


def _check(result: int, call: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{call}: {os.strerror(ctypes.get_errno())}")


def _unshare(name: str) -> None:
    _check(_LIBC.unshare(_CLONE[name]), f"unshare {name}")


def _prctl(option: int, value: int) -> None:
    _check(_LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    texts = [None if text is None else text.encode() for text in (source, target, kind, options)]
    _check(_LIBC.mount(*texts[:3], ctypes.c_ulong(flags), texts[3]), f"mount {target}")


def _make_read_only(target: str) -> None:
    """With all that is mounted below, which mount(2) cannot do at once."""
    attributes = struct.pack("4Q", _MS_RDONLY | _MS_NOSUID, 0, 0, 0)
    arguments = (_AT_FDCWD, target.encode(), _AT_RECURSIVE, attributes, ctypes.c_size_t(len(attributes)))
    _check(_LIBC.syscall(_SYS_MOUNT_SETATTR, *arguments), f"mount_setattr {target}")


if __name__ == "__main__":
    fields = json.loads(sys.argv[1])
    supervise(Order(**{**fields, "isolation": Isolation(*fields["isolation"])}))
