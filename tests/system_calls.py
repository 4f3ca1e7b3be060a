"""Kill a command at each system call of its that changes a file.

By strace: each call in turn gets SIGKILL in its stead, and afterwards the command must go right.
First those of the command's main thread, then those of its other threads and its children, of which
the first to reach a call of that number is killed. scripts/system_call_trials.py spreads them over
processes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
from support import SLOW

# Every call that changes a file or a folder; a new file is empty until the next of them.
CHANGES = (
    "chmod", "copy_file_range", "fchmod", "fchmodat", "fsync", "ftruncate", "link", "linkat",
    "mkdir", "mkdirat", "pwrite64", "rename", "renameat", "renameat2", "rmdir", "sendfile",
    "symlink", "symlinkat", "unlink", "unlinkat", "utimensat", "write", "writev",
)  # fmt: skip
DEVICES = ("/dev/null", "/dev/tty")
FOLLOW = ("-f", "--seccomp-bpf")
# A line of strace -f -y: whose call, its name, and the file behind a descriptor, if it has one.
_CALL = re.compile(r"(\d+) +(\w+)\((?:\d+<([^>]*)>)?")


class Publisher(Protocol):
    """A command that publishes something at each step."""

    folder: Path

    def command(self, step: int) -> list[str]:
        """The command of a step; what it needs is made ready here."""

    def environment(self) -> dict[str, str]:
        """Its variables."""

    def damage(self) -> str:
        """What a reader would stumble over at any moment, or nothing."""

    def result(self, step: int) -> str:
        """What is wrong with what a whole run of the step left, or nothing."""


@dataclass(frozen=True, order=True)
class Point:
    """A call, by its name and its number among those of that name.

    Attributes:
        below: Of any thread or child of the command, not of its main thread alone.
    """

    below: bool
    call: str
    number: int

    def __str__(self) -> str:
        return f"{self.call} number {self.number} of the {'threads' if self.below else 'command'}"


@dataclass(frozen=True)
class Kill:
    """A kill in the stead of one system call; ``fault`` is empty where all went right."""

    point: Point
    code: int
    fault: str

    def __str__(self) -> str:
        return f"{self.point}, exit code {self.code}: {self.fault}"


def points(publisher: Publisher) -> list[Point]:
    """Each call of a whole run that changes a file."""
    for step in (1, 3):
        assert _run(publisher, step) == 0
    return sorted(_calls(publisher, 4))


def kills(publisher: Publisher, chosen: Iterable[Point]) -> Iterator[Kill]:
    """A run killed at each of the calls, and a whole run after each."""
    tracer = _strace()
    for half, point in enumerate(chosen, 3):
        inject = f"inject={point.call}:signal=SIGKILL:when={point.number}"
        follow = FOLLOW if point.below else ()
        code = _run(publisher, 2 * half, tracer, *follow, "-qq", "-o", os.devnull, "-e", inject)
        wrong = publisher.damage()
        if code == 0:  # this run makes fewer of these calls
            wrong = wrong or publisher.result(2 * half)
        if not wrong:
            again = _run(publisher, 2 * half + 1)
            wrong = f"the next run: exit code {again}" if again else publisher.damage()
            if wrong := wrong or publisher.result(2 * half + 1):
                wrong = f"afterwards {wrong}"
        yield Kill(point, code, wrong)


def kill_at_every_call(publisher: Publisher, few: int) -> int:
    """Even steps are killed, each at another call; odd ones run to their end.

    Args:
        few: How many of the calls are tried in the normal ring.

    Returns:
        The number of kills.
    """
    every = points(publisher)
    assert len(every) > 20
    chosen = every if SLOW else every[:: -(-len(every) // few)]
    for kill in kills(publisher, chosen):
        assert not kill.fault, str(kill)
    return len(chosen)


def _strace() -> str:
    found = shutil.which("strace")
    if found is None or subprocess.run([found, "-qq", "true"], capture_output=True).returncode:
        pytest.skip("no strace here, or it may not trace (apt-get install strace)")
    return found


def _run(publisher: Publisher, step: int, *before: str) -> int:
    words = [*before, *publisher.command(step)]
    return subprocess.run(words, env=publisher.environment(), capture_output=True).returncode


def _calls(publisher: Publisher, step: int) -> set[Point]:
    """The calls of a run, without those that write to a pipe or a device."""
    log = publisher.folder / "calls"
    # The command's own execve comes first and names the main thread.
    traced = ("-qq", "-y", "-o", str(log), "-e", f"trace={','.join(('execve', *CHANGES))}")
    assert _run(publisher, step, _strace(), *FOLLOW, *traced) == 0
    found: set[Point] = set()
    counts: Counter[tuple[str, str]] = Counter()
    main = ""
    for line in log.read_text(errors="replace").splitlines():
        if not (match := _CALL.match(line)):
            continue
        thread, call, file = match.groups()
        main = main or thread
        counts[thread, call] += 1
        on_file = file is None or (file.startswith("/") and file not in DEVICES)
        if call in CHANGES and on_file:
            found.add(Point(thread != main, call, counts[thread, call]))
    return found
