"""Kill a command at each system call of its that changes a file.

By strace, which counts the calls of the thread that publishes; each call in turn gets SIGKILL in
its stead, and afterwards the command must go right. scripts/system_call_trials.py spreads them over
processes.
"""

from __future__ import annotations

import os
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


@dataclass(frozen=True)
class Kill:
    """A kill in the stead of one system call; ``fault`` is empty where all went right."""

    call: str
    number: int
    code: int
    fault: str

    def __str__(self) -> str:
        return f"{self.call} number {self.number}, exit code {self.code}: {self.fault}"


def points(publisher: Publisher) -> list[tuple[str, int]]:
    """Each call of a whole run, by its name and its number among those of that name."""
    for step in (1, 3):
        assert _run(publisher, step) == 0
    found = _counts(publisher, 4)
    return [(call, number) for call in sorted(found) for number in range(1, found[call] + 1)]


def kills(publisher: Publisher, chosen: Iterable[tuple[str, int]]) -> Iterator[Kill]:
    """A run killed at each of the calls, and a whole run after each."""
    tracer = _strace()
    for half, (call, number) in enumerate(chosen, 3):
        inject = f"inject={call}:signal=SIGKILL:when={number}"
        code = _run(publisher, 2 * half, tracer, "-qq", "-o", os.devnull, "-e", inject)
        wrong = publisher.damage()
        if code == 0:  # this run makes fewer of these calls
            wrong = wrong or publisher.result(2 * half)
        if not wrong:
            again = _run(publisher, 2 * half + 1)
            wrong = f"the next run: exit code {again}" if again else publisher.damage()
            if wrong := wrong or publisher.result(2 * half + 1):
                wrong = f"afterwards {wrong}"
        yield Kill(call, number, code, wrong)


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


def _counts(publisher: Publisher, step: int) -> dict[str, int]:
    """How often a run makes each call."""
    log = publisher.folder / "calls"
    changes = f"trace={','.join(CHANGES)}"
    assert _run(publisher, step, _strace(), "-qq", "-o", str(log), "-e", changes) == 0
    return Counter(line.partition("(")[0] for line in log.read_text().splitlines() if "(" in line)
