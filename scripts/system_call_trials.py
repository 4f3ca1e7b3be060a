#!/usr/bin/env python3
"""Kill commands in the stead of each system call of theirs that changes a file, and count.

    python scripts/system_call_trials.py [--only NAME] [--jobs N] [--every N] [--json FILE]

Publications, toolchains, engine builds, builds, and each command that changes a channel. After each
kill a reader must find the old state or the new one, and the next run must be right. Needs strace.
Exit code: 0 if so.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / path) for path in ("src", "tests", "tests/build", "tests/channel")]

import products  # noqa: E402
import support  # noqa: E402
import system_calls  # noqa: E402
import test_channel_system_calls as channel  # noqa: E402

from vllm_conda.processes import own_temporary  # noqa: E402

PRODUCTS = ("publish", "toolchain", "engine", "build")
NAMES = (*channel.COMMANDS, *PRODUCTS)


def publisher(name: str, folder: Path, dummies: str) -> system_calls.Publisher:
    """The command of that name, with what it needs in ``folder``."""
    if name in channel.COMMANDS:
        folder.mkdir()
        return channel.Command(name, folder)
    return products.PRODUCTS[name](folder, dummies)


def counted(name: str, dummies: str) -> list[system_calls.Point]:
    """The calls of the command."""
    with tempfile.TemporaryDirectory(prefix="system-calls-") as folder:
        return system_calls.points(publisher(name, Path(folder) / "counted", dummies))


def killed(name: str, dummies: str, chosen: list[system_calls.Point]) -> list[system_calls.Kill]:
    """Kills at a part of the calls."""
    with tempfile.TemporaryDirectory(prefix="system-calls-") as folder:
        one = publisher(name, Path(folder) / "killed", dummies)
        return list(system_calls.kills(one, chosen))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=NAMES, action="append")
    parser.add_argument("--jobs", type=int, default=1, help="kills at once")
    parser.add_argument("--part", type=int, default=20, help="kills of a process")
    parser.add_argument("--every", type=int, default=1, help="one in so many calls")
    parser.add_argument("--json", type=Path, help="write the counts and faults here, as they come")
    options = parser.parse_args()
    rows: dict[str, dict[str, object]] = {}
    with (
        own_temporary(),
        tempfile.TemporaryDirectory(prefix="system-calls-") as folder,
        # A forked process would wait for the threads that made the dummies.
        ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool,
    ):
        dummies = support.dummy_channel(Path(folder) / "dummies")
        names = options.only or list(NAMES)
        counts = {name: pool.submit(counted, name, dummies) for name in names}
        running = {}
        for name, found in counts.items():
            chosen = found.result()[:: options.every]
            running[name] = [
                pool.submit(killed, name, dummies, chosen[at : at + options.part])
                for at in range(0, len(chosen), options.part)
            ]
        for name, parts in running.items():
            started = time.monotonic()
            tally: list[system_calls.Kill] = []
            wrong: list[system_calls.Kill] = []
            for part in parts:
                tally += part.result()
                wrong = [kill for kill in tally if kill.fault]
                rows[name] = {
                    "calls": len(counts[name].result()),
                    "kills": len(tally),
                    "ended_before": sum(kill.code == 0 for kill in tally),
                    "of_the_command": sum(not kill.point.below for kill in tally),
                    "by_call": Counter(kill.point.call for kill in tally),
                    "faults": [dataclasses.asdict(kill) for kill in wrong],
                }
                if options.json:
                    options.json.write_text(json.dumps(rows, indent=1) + "\n")
            seconds = time.monotonic() - started
            print(f"{name}: {len(tally)} kills, {len(wrong)} faults, {seconds:.0f} s", flush=True)
            print(*wrong, sep="\n", end="\n" if wrong else "")
    return int(any(row["faults"] for row in rows.values()))


if __name__ == "__main__":
    raise SystemExit(main())
