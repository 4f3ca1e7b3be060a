#!/usr/bin/env python3
"""Kill builds, publications, toolchains and engine builds, and count what was left behind.

    python scripts/kill_trials.py --kills 500 [--jobs N] [--seed N] [--only PRODUCT] [--json FILE]

TERM, KILL and sometimes INT or HUP, at random moments, to the command, to `./run` around it and to
any process below.
After each kill: no process may live on for 5 s, every channel must hold what its index lists, no
published name may have changed its bytes, and the next run must be right. Exit code: 0 if so.
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
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests"), str(ROOT / "tests/build")]

import products  # noqa: E402
import support  # noqa: E402
import trials  # noqa: E402

from vllm_conda.processes import own_temporary  # noqa: E402

# Kills of a process: three whole runs come before them.
PART = 20


def trial(
    name: str, part: int, seed: int, kills: int, dummies: str, told: Queue[tuple[str, int, Any]]
) -> None:
    """A part of the kills of a product; the tally is told after each."""
    with tempfile.TemporaryDirectory(prefix="kill-trials-") as folder:
        product = products.PRODUCTS[name](Path(folder) / name, dummies)
        done = trials.Trials(product, seed)
        told.put((name, part, done.run(kills, lambda tally: told.put((name, part, tally)))))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=500, help="over all products")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=products.PRODUCTS, action="append")
    parser.add_argument("--json", type=Path, help="write each kill here as it comes")
    options = parser.parse_args()
    chosen = options.only or list(products.PRODUCTS)
    shares = {
        name: len(range(number, options.kills, len(chosen))) for number, name in enumerate(chosen)
    }
    apart = multiprocessing.get_context("spawn")
    with (
        own_temporary(),
        tempfile.TemporaryDirectory(prefix="kill-trials-") as folder,
        # A forked process would wait for the threads that made the dummies.
        ProcessPoolExecutor(options.jobs, apart) as pool,
        apart.Manager() as manager,
    ):
        dummies = support.dummy_channel(Path(folder) / "dummies")
        told: Queue[tuple[str, int, trials.Tally]] = manager.Queue()
        running = [
            pool.submit(trial, name, at, options.seed + at, min(PART, share - at), dummies, told)
            for name, share in shares.items()
            for at in range(0, share, PART)
        ]
        progress = Progress(options.json)
        while not all(one.done() for one in running) or not told.empty():
            with suppress(Empty):
                progress(*told.get(timeout=1))
        for one in running:
            one.result()
    rows = progress.rows()
    print(f"\n{json.dumps({name: {**row, 'each': ''} for name, row in rows.items()}, indent=1)}")
    print(table(rows))
    return 1 if any(row["faults"] for row in rows.values()) else 0


def row(parts: list[trials.Tally]) -> dict[str, Any]:
    """The counts of one product so far."""
    kills = [kill for tally in parts for kill in tally.kills]
    return {
        "kills": len(kills),
        "by_victim": dict(sorted(Counter(map(kind, kills)).items())),
        "ended_before": sum(tally.ended_before for tally in parts),
        "slowest_end_seconds": round(max(tally.slowest_end for tally in parts), 2),
        "faults": [fault for tally in parts for fault in tally.faults],
        "each": [dataclasses.asdict(kill) for kill in kills],
    }


def kind(kill: trials.Kill) -> str:
    return f"{kill.sign} {kill.victim}"


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The kills by product and victim, a column a signal."""
    signs = [sign.name for sign in trials.SIGNALS]
    lines = [f"{'product':10} {'victim':22}" + "".join(f"{sign:>9}" for sign in signs)]
    total: Counter[str] = Counter()
    for name, row in rows.items():
        kills = {tuple(key.split(" ", 1)): count for key, count in row["by_victim"].items()}
        for victim in sorted({victim for _, victim in kills}):
            counts = {sign: kills.get((sign, victim), 0) for sign in signs}
            total.update(counts)
            lines.append(f"{name:10} {victim:22}" + "".join(f"{n:9}" for n in counts.values()))
    lines.append(f"{'all':33}" + "".join(f"{total[sign]:9}" for sign in signs))
    return "\n".join(lines)


class Progress:
    """Counts on one line, each fault as it is found, and each product's row as it grows.

    Args:
        file: Where the rows are written too, with each kill.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.tallies: dict[str, dict[int, trials.Tally]] = {}
        self.started = time.monotonic()

    def __call__(self, name: str, part: int, tally: trials.Tally) -> None:
        parts = self.tallies.setdefault(name, {})
        known = len(parts[part].faults) if part in parts else 0
        parts[part] = tally
        for fault in tally.faults[known:]:
            print(f"\n{fault}", file=sys.stderr)
        rows = self.rows()
        kills = sum(row["kills"] for row in rows.values())
        faults = sum(len(row["faults"]) for row in rows.values())
        seconds = time.monotonic() - self.started
        print(f"\r{kills} kills, {faults} faults, {seconds:.0f} s", end="", file=sys.stderr)
        if self.file:
            self.file.write_text(json.dumps(rows, indent=1) + "\n")

    def rows(self) -> dict[str, dict[str, Any]]:
        """By product, with each kill."""
        return {name: row(list(parts.values())) for name, parts in self.tallies.items()}


if __name__ == "__main__":
    raise SystemExit(main())
