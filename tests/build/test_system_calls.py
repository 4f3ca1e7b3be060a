"""Killed at a system call that changes a file, a publisher leaves the old channel or the new one.

By strace, which counts the calls of the thread that publishes; each call in turn gets SIGKILL in
its stead, and afterwards a whole run must be right.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import trials

SLOW_VARIABLE = "VLLM_CONDA_TEST_SLOW"
# Every call that changes a file or a folder; a new file is empty until the next of them.
CHANGES = (
    "chmod", "copy_file_range", "fchmod", "fchmodat", "fsync", "ftruncate", "link", "linkat",
    "mkdir", "mkdirat", "pwrite64", "rename", "renameat", "renameat2", "rmdir", "sendfile",
    "symlink", "symlinkat", "unlink", "unlinkat", "utimensat", "write", "writev",
)  # fmt: skip
FEW = 6


def strace() -> str:
    found = shutil.which("strace")
    if found is None or subprocess.run([found, "-qq", "true"], capture_output=True).returncode:
        pytest.skip("no strace here, or it may not trace (apt-get install strace)")
    return found


def run(product: trials.Product, step: int, *before: str) -> int:
    words = [*before, *product.command(step)]
    return subprocess.run(words, env=product.environment(), capture_output=True).returncode


def counts(product: trials.Product, tracer: str, step: int) -> dict[str, int]:
    """How often a run makes each call."""
    log = product.folder / "calls"
    changes = f"trace={','.join(CHANGES)}"
    assert run(product, step, tracer, "-qq", "-o", str(log), "-e", changes) == 0
    return Counter(line.partition("(")[0] for line in log.read_text().splitlines() if "(" in line)


@pytest.mark.parametrize("name", ["publish", "toolchain", "engine"])
def test_a_kill_at_every_call(name: str, dummies: str, tmp_path: Path) -> None:
    slow = os.environ.get(SLOW_VARIABLE) == "1"
    if not slow and name != "publish":
        pytest.skip(f"minutes; {SLOW_VARIABLE}=1 runs it")
    tracer = strace()
    product = trials.PRODUCTS[name](tmp_path / name, dummies)
    for step in (1, 2):
        assert run(product, step) == 0
    found = counts(product, tracer, 3)
    points = [(call, number) for call in sorted(found) for number in range(1, found[call] + 1)]
    assert len(points) > 20
    for step, (call, number) in enumerate(points if slow else points[:: len(points) // FEW], 4):
        inject = f"inject={call}:signal=SIGKILL:when={number}"
        code = run(product, 2 * step, tracer, "-qq", "-o", os.devnull, "-e", inject)
        where = f"{call} number {number}"
        assert product.damage() == "", where
        if code == 0:  # this run makes fewer of these calls
            assert product.result(2 * step) == "", where
        assert run(product, 2 * step + 1) == 0, where
        assert (product.damage() or product.result(2 * step + 1)) == "", where
