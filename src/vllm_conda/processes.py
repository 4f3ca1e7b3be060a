"""What ends with the process that started it, however that one ends: children, temporary files.

Each command runs below a guard, which is this file run as a program: it adopts whatever the
command leaves behind (child subreaper) and ends all of it once the command or the starter is
gone. A pipe tells it of the starter: the kernel closes the other end at any death, SIGKILL
included. The guard then removes the starter's temporary folder (own_temporary) as well. Standard
library only, because `./run` uses it before anything is installed.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

GRACE_SECONDS = 2.0
# Threads that do not wait for a process may hold a stopped program up for no longer.
_STOP_SECONDS = 2 * GRACE_SECONDS
_PR_SET_CHILD_SUBREAPER = 36
_ENDING = (signal.SIGTERM, signal.SIGHUP)
TEMPORARY = "TMPDIR"
_OWN_PREFIX = "vllm-conda."
_OWN_LOCK = ".lock"

_lifelines: set[int] = set()
_guards: set[int] = set()
_starting = threading.Lock()
_stops: list[int] = []
_temporary: list[str | None] = []


@contextmanager
def guarded(command: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """``subprocess.Popen`` of ``command`` below a guard; nothing of it outlives the context.

    A command that a signal ended has the return code 128 + signal, as in a shell.

    Raises:
        FileNotFoundError: The command is not there.
    """
    words = [os.fspath(word) for word in command]
    environment = options.get("env") or os.environ
    if shutil.which(words[0], path=environment.get("PATH", os.defpath)) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), words[0])
    reader, writer = os.pipe()
    _lifelines.add(writer)
    try:
        with _starting:
            adopt_orphans()
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, str(reader), *words],
                pass_fds=(reader,),
                **options,
            )
            _guards.add(process.pid)
    except BaseException:
        _hang_up(writer)
        raise
    finally:
        os.close(reader)
    # Not afterwards: what is left may hold the pipe that the caller reads to its end.
    watcher = threading.Thread(target=_watch, args=[process.pid], daemon=True)
    watcher.start()
    try:
        with process:
            try:
                yield process
            finally:
                _hang_up(writer)
                watcher.join()
    finally:
        process.wait()
        _guards.discard(process.pid)
        if process.returncode < 0:
            _adopt(process.pid)


def _watch(guard: int) -> None:
    with suppress(ChildProcessError):  # the caller has waited for it, and looks itself
        ended = os.waitid(os.P_PID, guard, os.WEXITED | os.WNOWAIT)
        if ended is not None and ended.si_code != os.CLD_EXITED:
            _adopt(guard)


def _adopt(guard: int) -> None:
    """Somebody killed the guard: its processes are ours now, and end."""
    _guards.discard(guard)
    with _starting:
        _end_descendants(_guards)


def run(
    command: Sequence[str | Path], timeout: float | None = None, **options: Any
) -> subprocess.CompletedProcess[Any]:
    """``subprocess.run`` below a guard."""
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with guarded(command, **options) as process:
        output, problems = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(list(command), process.returncode, output, problems)


def signal_name(code: int) -> str:
    """The signal behind a return code of ``guarded``, or nothing."""
    with suppress(ValueError):
        return signal.Signals(-code if code < 0 else code - 128).name
    return ""


class Stopped(SystemExit):
    """TERM or HUP ends the program; the code is 128 + signal."""


def stop_on_signals() -> None:
    """Make TERM, HUP and INT end this program in order: first its processes, then itself.

    TERM and HUP raise Stopped(128 + signal), INT raises KeyboardInterrupt. A signal that is
    ignored, as under nohup, stays so. Where Python swallows the exception, as in a callback of its
    import locks, nothing is printed, and stop_signal() still tells of it.
    """
    report = sys.unraisablehook

    def report_others(unraisable: sys.UnraisableHookArgs) -> None:
        if not isinstance(unraisable.exc_value, (Stopped, KeyboardInterrupt)):
            report(unraisable)

    sys.unraisablehook = report_others
    for number in (*_ENDING, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def stop_signal() -> int:
    """The signal that asked this program to end, or 0: steps may fail of it in other words."""
    return _stops[-1] if _stops else 0


def _stop(number: int, frame: FrameType | None) -> None:
    _stops.append(number)
    for writer in tuple(_lifelines):
        _hang_up(writer)
    late = threading.Timer(_STOP_SECONDS, os._exit, [128 + number])
    late.daemon = True
    late.start()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Stopped(128 + number)


def _hang_up(writer: int) -> None:
    """Close a lifeline once; a signal handler may have done it already."""
    with suppress(KeyError):
        _lifelines.remove(writer)
        os.close(writer)


@contextmanager
def own_temporary() -> Iterator[None]:
    """A temporary folder of this process's own, named by TMPDIR, for what libraries leave in it.

    It goes with the context; that of a killed process goes with the guard of its children, or when
    the next one is made. Where none can be made, TMPDIR stays as it is. Inside of another such
    context it does nothing.
    """
    if _temporary:
        yield
        return
    before, made = tempfile.tempdir, None
    # tempfile.gettempdir() would try them with a file, which a kill leaves behind.
    for parent in filter(None, (before, os.environ.get(TEMPORARY), "/tmp")):  # noqa: S108
        with suppress(OSError):
            made = _made_temporary(Path(parent).absolute())
            break
    if made is None:
        yield
        return
    folder, lock = made
    _temporary.append(os.environ.get(TEMPORARY))
    os.environ[TEMPORARY] = tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
        if (named := _temporary.pop()) is None:
            del os.environ[TEMPORARY]
        else:
            os.environ[TEMPORARY] = named
        _empty(folder)
        os.close(lock)


def callers_environment() -> dict[str, str]:
    """The variables with the TMPDIR that this process was given, for what is to outlive it."""
    found = dict(os.environ)
    for given in _temporary:
        del found[TEMPORARY]
        found |= {TEMPORARY: given} if given else {}
    return found


def _made_temporary(parent: Path) -> tuple[Path, int]:
    """A new folder and the open file by whose lock it is held; abandoned ones are removed."""
    for folder in parent.glob(f"{_OWN_PREFIX}*"):
        with suppress(OSError):
            if folder.stat(follow_symlinks=False).st_uid == os.geteuid():
                _remove_abandoned(folder)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_OWN_PREFIX, dir=parent))
        with suppress(FileNotFoundError):  # somebody took it for an abandoned one
            lock = os.open(folder / _OWN_LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock).st_nlink:
                return folder, lock
            os.close(lock)


def _remove_abandoned(folder: Path) -> None:
    """Remove a folder of own_temporary whose process is gone; leave any other as it is."""
    try:
        lock = os.open(folder / _OWN_LOCK, os.O_RDWR)
    except FileNotFoundError:  # killed before it had one
        folder.rmdir()
        return
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _empty(folder)
    os.close(lock)


def _empty(folder: Path) -> None:
    """Remove a folder; where something stays in it, its lock stays too, for the next attempt."""
    with suppress(OSError):
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != _OWN_LOCK:
                entry.unlink()
        if [entry.name for entry in folder.iterdir()] == [_OWN_LOCK]:
            (folder / _OWN_LOCK).unlink()
            folder.rmdir()


def adopt_orphans() -> None:
    """Become the parent of what processes below this one leave behind."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(keep: Collection[int] = ()) -> set[int]:
    """Living processes below this one, but those in ``keep`` and below."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    children.setdefault(int(parent), []).append(int(entry.name))
    found: set[int] = set()
    waiting = [os.getpid()]
    while waiting:
        for child in children.get(waiting.pop(), []):
            if child not in keep:
                found.add(child)
                waiting.append(child)
    return found


def _end_descendants(keep: set[int]) -> None:
    asked: set[int] = set()
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + GRACE_SECONDS
        while True:
            for pid in asked:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            alive = descendants(keep)
            if not alive:
                return
            if time.monotonic() > deadline:
                break
            for pid in alive if number == signal.SIGKILL else alive - asked:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            asked |= alive
            time.sleep(0.01)


def _guard(lifeline: int, command: Sequence[str]) -> int:
    """Run ``command``, end what is left of it, and return its exit code."""
    adopt_orphans()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    # Not ignored but handled: an ignored signal would stay ignored in the command.
    for number in (*_ENDING, signal.SIGINT, signal.SIGCHLD):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)
    child = os.fork()
    if child == 0:
        os.close(lifeline)
        # Python ignores these two for itself.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execvp(command[0], list(command))  # noqa: S606
        except OSError as error:
            os.write(2, f"{command[0]}: {error.strerror}\n".encode())
            os._exit(127 if isinstance(error, FileNotFoundError) else 126)
    code = 128 + signal.SIGTERM
    while True:
        ready, _, _ = select.select([lifeline, woken], [], [])
        if lifeline in ready or set(os.read(woken, 1024)) & set(_ENDING):
            break
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            code = 128 - code if code < 0 else code
            break
    _end_descendants(set())
    own = Path(os.environ.get(TEMPORARY, ""))
    if own.name.startswith(_OWN_PREFIX):
        with suppress(OSError):
            _remove_abandoned(own)
    return code


if __name__ == "__main__":
    os._exit(_guard(int(sys.argv[1]), sys.argv[2:]))
