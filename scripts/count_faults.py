#!/usr/bin/env python3
"""Fuzz the ops, kill the commands and read malformed data, by the thousand; one table of counts.

    python scripts/count_faults.py [--only STEP] [--jobs N] [--scale 0.01] [--output FOLDER]

The steps: `fuzz`, 100,000 calls of each op family of the CPU; `asan`, 10,000 of each on a build
with AddressSanitizer and UBSan; `kills`, 500 at random moments; `calls`, one at each system call
that changes a file; `malformed`, 5,000 inputs a test. Hours of some cores. Each step's log and
counts go to the folder. Exit code: 0 where no step found a fault.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MALFORMED = (
    "tests/unit/malformed",
    "tests/unit/signing/test_malformed_signatures.py",
    "tests/channel/test_malformed_channels.py",
    "tests/channel/test_malformed_packages.py",
)
# The packages of an environment with the kernels, and of one that builds them.
INSTALLED = ("vllm-kernels-cpu", "hypothesis")
BUILDING = (
    *("pytorch", "onednn", "libhwy", "gxx_linux-64"),
    *("cmake", "ninja", "pytest", "hypothesis"),
)
# What hypothesis says of each test.
_INPUTS = re.compile(r"^\S+::test_(\w+):$|(\d+) passing, (\d+) failing", re.MULTILINE)


def within(packages: tuple[str, ...]) -> list[str]:
    """A command in front of one that needs these packages."""
    named = [word for name in packages for word in ("--with", name)]
    return [sys.executable, "-m", "vllm_conda", "exec", *named, "--", "python"]


@dataclass(frozen=True)
class Step:
    """One step: its command, given jobs, scale and report, and its counts by row."""

    command: Callable[[int, float, Path], list[str]]
    rows: Callable[[Path, str], dict[str, str]]


def fuzzed(report: Path, log: str) -> dict[str, str]:
    """Calls and kinds of faults of each family."""
    found: dict[str, dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))
    return {
        family: f"{one['counts'].get('calls', 0)} calls, {one['counts'].get('compared', 0)} "
        f"compared, {len(one['faults'])} kinds of faults"
        for family, one in sorted(found.items())
    }


def killed(report: Path, log: str) -> dict[str, str]:
    """Kills and faults of each command."""
    found: dict[str, dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))
    return {
        name: f"{one['kills']} kills, {len(one['faults'])} faults" for name, one in found.items()
    }


def read(report: Path, log: str) -> dict[str, str]:
    """Inputs of each test, as hypothesis counts them."""
    rows, test = {}, ""
    for match in _INPUTS.finditer(log):
        test = match[1] or test
        if match[2]:
            rows[test] = f"{match[2]} inputs, {match[3]} faults"
    return rows


def python(script: str, *words: object) -> list[str]:
    return [sys.executable, script, *map(str, words)]


STEPS = {
    "fuzz": Step(
        lambda jobs, scale, report: [
            *within(INSTALLED), "-m", "tests.fuzz", "--calls", f"{100_000 * scale:.0f}",
            "--batch", "10000", "--jobs", str(jobs), "--report", str(report),
        ],
        fuzzed,
    ),
    "asan": Step(
        lambda jobs, scale, report: [
            *within(BUILDING), "scripts/asan.py", f"--fuzz={10_000 * scale:.0f}",
            "--batch", "5000", "--jobs", str(jobs), "--report", str(report),
        ],
        fuzzed,
    ),
    "kills": Step(
        lambda jobs, scale, report: python(
            "scripts/kill_trials.py", "--kills", round(500 * scale), "--jobs", jobs,
            "--json", report,
        ),
        killed,
    ),
    "calls": Step(
        lambda jobs, scale, report: python(
            "scripts/system_call_trials.py", "--jobs", jobs, "--every", max(1, round(1 / scale)),
            "--json", report,
        ),
        killed,
    ),
    "malformed": Step(
        lambda jobs, scale, report: python(
            "-m", "pytest", "-q", "-n", jobs, "--hypothesis-show-statistics", *MALFORMED
        ),
        read,
    ),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=STEPS, action="append", help="again for more")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at once")
    parser.add_argument("--scale", type=float, default=1.0, help="a part of the counts")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "faults")
    options = parser.parse_args()
    if not options.scale > 0:
        parser.error("--scale wants a number above 0")
    options.output.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in options.only or STEPS:
        step, log = STEPS[name], options.output / f"{name}.log"
        report = (options.output / f"{name}.json").resolve()
        report.unlink(missing_ok=True)
        # Below it the malformed inputs are few and the same each time.
        slow = {"VLLM_CONDA_TEST_SLOW": "1"} if options.scale >= 1 else {}
        with log.open("wb") as sink:
            done = subprocess.run(
                step.command(options.jobs, options.scale, report),
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **slow},
                stdout=sink,
                stderr=subprocess.STDOUT,
                check=False,
            )
        print(f"{name}: {'no fault' if done.returncode == 0 else f'faults or cut, see {log}'}")
        if done.returncode:
            failed.append(name)
        try:
            rows = step.rows(report, log.read_text(encoding="utf-8", errors="replace"))
        except (OSError, ValueError):  # cut before it wrote them, or while
            rows = {"": "no counts"}
        for row, counts in rows.items():
            print(f"  {row:45} {counts}", flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
