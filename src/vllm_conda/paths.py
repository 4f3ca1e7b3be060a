"""Where the toolkit keeps things: the project's files and the user's cache."""

from __future__ import annotations

import errno
import os
import pwd
import re
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vllm_conda.errors import ConfigError, DiskError

PROJECT_MARKER = "targets.toml"
CACHE_VARIABLE = "VLLM_CONDA_CACHE"


def project_root(start: Path | None = None) -> Path:
    """Return the nearest folder at or above ``start`` that holds ``targets.toml``.

    Raises:
        ConfigError: No such folder; the command was run outside a checkout.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / PROJECT_MARKER).is_file():
            return folder
    raise ConfigError(
        f"No {PROJECT_MARKER} in {here} or above it, so this is not a checkout of the project.",
        "Change to the checkout, or name it with --root.",
    )


def cache_root() -> Path:
    """Return the toolkit's cache: ``$VLLM_CONDA_CACHE``, else below ``$XDG_CACHE_HOME``.

    Raises:
        ConfigError: It would lie in a home folder that the system does not know.
    """
    own = os.environ.get(CACHE_VARIABLE)
    try:
        if own:
            return Path(own).expanduser().resolve()
        base = os.environ.get("XDG_CACHE_HOME")
        return (Path(base) if base else Path.home() / ".cache") / "vllm-conda"
    except RuntimeError as error:  # HOME is unset and the user has no passwd entry, or `~nobody`
        raise ConfigError(
            f"There is no folder for the cache: {str(error).rstrip('.')}.",
            f"Set {CACHE_VARIABLE} to a folder of yours.",
        ) from None


def private_folder(channel: Path) -> Path:
    """What belongs to a channel and is not published with it: logs, state, tasks of a cluster.

    It lies beside the channel, ``output.build`` for ``output``: whoever serves or copies the
    channel's folder takes nothing of this machine along.
    """
    channel = channel.resolve()
    return channel.with_name(f"{channel.name}.build")


# How Python, Rust's libraries and the C library say that a limit of the process is reached.
_LIMITS = {
    r"too many open files|os error 2[34]\b": "too many open files; raise `ulimit -n`",
    r"can't start new thread|resource temporarily unavailable|spawn.* thread|os error 11\b":
        "no more processes and threads; raise `ulimit -u`",
    r"memoryerror|not enough memory|cannot allocate memory|failed to map segment|os error 12\b":
        "no more memory; raise `ulimit -v`",
}  # fmt: skip


def limit_error(error: BaseException, step: str) -> DiskError | None:
    """One sentence for what a limit of the process or the machine caused, else nothing."""
    text = f"{type(error).__name__}: {error}"
    for pattern, reason in _LIMITS.items():
        if re.search(pattern, text, re.IGNORECASE):
            what, _, advice = reason.partition("; ")
            return DiskError(
                f"{step}: the system gives {what}.",
                f"{advice[0].upper()}{advice[1:]}, or run less at once (--jobs, other programs).",
            )
    return None


def file_error(error: OSError, step: str) -> DiskError:
    """One sentence for an error of the operating system that no step has explained itself."""
    if limit := limit_error(error, step):
        return limit
    reason = error.strerror or str(error)
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    owner = _owner(names[0]) if names and isinstance(error, PermissionError) else ""
    what = f" {' and '.join(names)}{owner}" if names else ""
    return DiskError(
        f"{step}: cannot read or write{what}: {reason}.",
        f"Free space or permissions there, or choose another place with {CACHE_VARIABLE}.",
    )


def _owner(name: str) -> str:
    """Whose file it is, where it is another user's: of a lock in a shared folder."""
    try:
        status = os.lstat(name)
    except OSError:
        return ""
    if status.st_uid == os.geteuid():
        return ""
    try:
        user = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        user = f"user {status.st_uid}"
    return f" of {user}"


def state_root() -> Path:
    """Return the folder of what must outlive the cache: below ``$XDG_STATE_HOME``.

    Raises:
        ConfigError: It would lie in a home folder that the system does not know.
    """
    base = os.environ.get("XDG_STATE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".local" / "state") / "vllm-conda"
    except RuntimeError as error:
        raise ConfigError(
            f"There is no folder for what is remembered: {str(error).rstrip('.')}.",
            "Set XDG_STATE_HOME to a folder of yours.",
        ) from None


def refuse_pipes(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: opening a named pipe fails, where it would wait for ever for its other end.

    What a shell hands over as a file (``<(...)``) is a pipe as well, whose other end is there.
    """
    if event != "open" or not isinstance(arguments[0], (str, bytes)):
        return
    path = os.fsdecode(arguments[0])
    if path.startswith(("/dev/fd/", "/proc/")) or arguments[2] & os.O_NONBLOCK:
        return
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - called at every open
    except (OSError, ValueError):  # the open itself says what is wrong
        return
    if stat.S_ISFIFO(mode):
        raise OSError(errno.EINVAL, "it is a named pipe, not a file", path)


@contextmanager
def disk_errors(what: str, path: Path) -> Iterator[None]:
    """Turn the operating system's write errors into one sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DiskError(
            f"Cannot write {what} at {path}: {reason}.",
            "Free space or permissions there, or choose another place with "
            f"--output or {CACHE_VARIABLE}.",
        ) from error


def write_atomic(path: Path, text: str) -> None:
    """Write ``text`` so that a reader sees the old file or the whole new one.

    Raises:
        DiskError: The disk is full, read-only or not writable.
    """
    with disk_errors("a file", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacement(path) as draft, draft.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """A file beside ``path`` that takes its place when it is written.

    Its name holds that of the process: what a killed one left can be told by :func:`abandoned`.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.{process_name()}+")
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        draft.chmod(0o644)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def process_name() -> str:
    """Of this process, unlike those of all that run elsewhere."""
    return f"{socket.gethostname()}+{os.getpid()}"


def abandoned(path: Path) -> bool | None:
    """Whether the process of this machine in a name is gone; None for other names."""
    before, _, rest = path.name.partition("+")
    host, pid = socket.gethostname(), rest.partition("+")[0]
    if not (before == host or before.endswith(f".{host}")) or not pid.isdecimal():
        return None
    return not Path(f"/proc/{pid}").exists()
