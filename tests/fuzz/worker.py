"""One batch of calls in a process of its own: what it dies of, the driver reports."""

from __future__ import annotations

import argparse
import json
import mmap
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from . import corpus
from .oracle import Oracle
from .strategies import BURST, drawn, made

_BOX = 4096


class BlackBox:
    """The number and the text of the call in progress, readable when the process is gone."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(_BOX))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _BOX)

    def note(self, number: int, text: str) -> None:
        line = f"{number} {text}".encode(errors="replace")[: _BOX - 1]
        self._memory[: len(line) + 1] = line + b"\0"


def run(family: str, number: int, calls: int, device: str, box: BlackBox) -> Oracle:
    """``calls`` calls of a family's ops, drawn by hypothesis from the seed ``number``."""
    torch.manual_seed(number)
    oracle = Oracle(corpus.mover(device))
    bases = corpus.bases(family, device, oracle)

    @seed(number)
    @settings(
        max_examples=-(-calls // BURST),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn(bases))
    def fuzz(drawing: tuple[str, str, int]) -> None:
        op, how, first = drawing
        for dice in range(first, first + BURST):
            call = made(op, how, bases[op], dice)
            box.note(oracle.counts["calls"], f"{how}: {call}")
            oracle.check(how, call, dice)

    fuzz()
    return oracle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family")
    parser.add_argument("seed", type=int)
    parser.add_argument("calls", type=int)
    parser.add_argument("device")
    parser.add_argument("box", type=Path)
    options = parser.parse_args()
    oracle = run(options.family, options.seed, options.calls, options.device, BlackBox(options.box))
    print(json.dumps({"counts": oracle.counts, "faults": oracle.faults}))


if __name__ == "__main__":
    main()
