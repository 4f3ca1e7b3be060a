"""Kill a command at each system call of its that changes a file.

By strace, which counts the calls of the thread that publishes; each call in turn gets SIGKILL in
its stead, and afterwards the command must go right.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
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


def kill_at_every_call(publisher: Publisher, few: int) -> int:
    """Even steps are killed, each at another call; odd ones run to their end.

    Args:
        few: How many of the calls are tried in the normal ring.

    Returns:
        The number of kills.
    """
    tracer = _strace()
    for step in (1, 3):
        assert _run(publisher, step) == 0
    found = _counts(publisher, tracer, 4)
    points = [(call, number) for call in sorted(found) for number in range(1, found[call] + 1)]
    assert len(points) > 20
    chosen = points if SLOW else points[:: -(-len(points) // few)]
    for half, (call, number) in enumerate(chosen, 3):
        inject = f"inject={call}:signal=SIGKILL:when={number}"
        code = _run(publisher, 2 * half, tracer, "-qq", "-o", os.devnull, "-e", inject)
        where = f"{call} number {number}"
        wrong = publisher.damage()
        if code == 0:  # this run makes fewer of these calls
            wrong = wrong or publisher.result(2 * half)
        assert not wrong, f"{where}: {wrong}"
        assert _run(publisher, 2 * half + 1) == 0, where
        wrong = publisher.damage() or publisher.result(2 * half + 1)
        assert not wrong, f"after {where}: {wrong}"
    return len(chosen)


def _strace() -> str:
    found = shutil.which("strace")
    if found is None or subprocess.run([found, "-qq", "true"], capture_output=True).returncode:
        pytest.skip("no strace here, or it may not trace (apt-get install strace)")
    return found


def _run(publisher: Publisher, step: int, *before: str) -> int:
    words = [*before, *publisher.command(step)]
    return subprocess.run(words, env=publisher.environment(), capture_output=True).returncode


def _counts(publisher: Publisher, tracer: str, step: int) -> dict[str, int]:
    """How often a run makes each call."""
    log = publisher.folder / "calls"
    changes = f"trace={','.join(CHANGES)}"
    assert _run(publisher, step, tracer, "-qq", "-o", str(log), "-e", changes) == 0
    return Counter(line.partition("(")[0] for line in log.read_text().splitlines() if "(" in line)
