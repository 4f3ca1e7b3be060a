#!/usr/bin/env python3
"""Kill builds, publications, toolchains and engine builds, and count what was left behind.

    python scripts/kill_trials.py --kills 500 [--seed N] [--only PRODUCT] [--json FILE]

TERM, KILL and sometimes INT or HUP, at random moments, to the command, to `./run` around it and to
any process below.
After each kill: no process may live on for 5 s, every channel must hold what its index lists, no
published name may have changed its bytes, and the next run must be right. Exit code: 0 if so.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests"), str(ROOT / "tests/build")]

import products  # noqa: E402
import support  # noqa: E402
import trials  # noqa: E402

from vllm_conda.processes import own_temporary  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=500, help="over all products")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=products.PRODUCTS, action="append")
    parser.add_argument("--json", type=Path, help="write each kill here as it comes")
    options = parser.parse_args()
    chosen = options.only or list(products.PRODUCTS)
    rows: dict[str, dict[str, Any]] = {}
    with own_temporary(), tempfile.TemporaryDirectory(prefix="kill-trials-") as folder:
        dummies = support.dummy_channel(Path(folder) / "dummies")
        for number, name in enumerate(chosen):
            share = len(range(number, options.kills, len(chosen)))
            progress = Progress(name, rows, options.json)
            product = products.PRODUCTS[name](Path(folder) / name, dummies)
            progress(trials.Trials(product, options.seed).run(share, progress))
            counts = {key: value for key, value in rows[name].items() if key != "each"}
            print(f"\n{name}: {json.dumps(counts, indent=1)}", flush=True)
    print(table(rows))
    return 1 if any(row["faults"] for row in rows.values()) else 0


def row(tally: trials.Tally) -> dict[str, Any]:
    """The counts of one product so far."""
    return {
        "kills": len(tally.kills),
        "by_victim": dict(sorted(Counter(map(kind, tally.kills)).items())),
        "ended_before": tally.ended_before,
        "slowest_end_seconds": round(tally.slowest_end, 2),
        "faults": tally.faults,
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
    """Counts on one line, each fault as it is found, and the product's row as it grows.

    Args:
        rows: By product, with each kill.
        file: Where they are written too.
    """

    def __init__(self, name: str, rows: dict[str, dict[str, Any]], file: Path | None) -> None:
        self.name, self.rows, self.file = name, rows, file
        self.started, self.told = time.monotonic(), 0

    def __call__(self, tally: trials.Tally) -> None:
        for fault in tally.faults[self.told :]:
            print(f"\n{fault}", file=sys.stderr)
        self.told = len(tally.faults)
        print(f"\r{len(tally.kills)} kills, {self.told} faults", end="", file=sys.stderr)
        self.rows[self.name] = {
            **row(tally),
            "seconds": round(time.monotonic() - self.started),
            "each": [dataclasses.asdict(kill) for kill in tally.kills],
        }
        if self.file:
            self.file.write_text(json.dumps(self.rows, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
