"""One batch of calls in a process of its own: what it dies of, the driver reports."""

from __future__ import annotations

import argparse
import json
import mmap
from pathlib import Path

import torch

from . import corpus
from .draws import BURST, Draw, drawn, read
from .oracle import Oracle
from .strategies import made

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


def run(family: str, device: str, draws: list[Draw], number: int, box: BlackBox) -> Oracle:
    """Make the calls of the draws, and count those that have no valid call to start from."""
    torch.manual_seed(number)
    oracle = Oracle(corpus.mover(device))
    bases = corpus.bases(family, device, oracle)
    for op, how, first in draws:
        for dice in range(first, first + BURST):
            if op not in bases:
                oracle.counts.update(("calls", "without a valid call"))
                continue
            call = made(op, how, bases[op], dice)
            box.note(oracle.counts["calls"], f"{how}: {call}")
            oracle.check(how, call, dice)
    return oracle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family")
    parser.add_argument("seed", type=int)
    parser.add_argument("calls", type=int)
    parser.add_argument("device")
    parser.add_argument("box", type=Path)
    parser.add_argument("--read-calls", type=Path)
    options = parser.parse_args()
    family, number = options.family, options.seed
    if options.read_calls:
        draws = read(options.read_calls, family, number)
    else:
        draws = drawn(corpus.ops_of(family, options.device), number, options.calls)
    oracle = run(family, options.device, draws, number, BlackBox(options.box))
    print(json.dumps({"counts": oracle.counts, "faults": oracle.faults}))


if __name__ == "__main__":
    main()
