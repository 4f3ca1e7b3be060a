"""One batch of calls in a process of its own: what it dies of, the driver reports."""

from __future__ import annotations

import argparse
import faulthandler
import itertools
import json
import math
import mmap
import time
from pathlib import Path
from typing import Any

import torch

from . import corpus
from .draws import Draw, drawn, read
from .gpu import BrokenError, Gpu
from .oracle import Oracle
from .strategies import made
from .trust import kept

_BOX = 4096
_SAVED = 100  # calls after which the counts so far are written beside the box
CALL = "fuzz: "


class BlackBox:
    """The number and the text of the call in progress, readable when the process is gone."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(_BOX))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _BOX)

    def note(self, number: int, text: str) -> None:
        line = f"{number} {text}".encode(errors="replace")[: _BOX - 1]
        self._memory[: len(line) + 1] = line + b"\0"


def run(options: argparse.Namespace, draws: list[Draw], box: BlackBox) -> dict[str, Any]:
    """Make the calls of the draws; of an op without a valid call to start from, by its schema.

    Where a kernel's error ends the use of the device, the answer says at which call to go on in
    another process.
    """
    torch.manual_seed(options.seed)
    gpu = Gpu(options.device, options.exact) if options.device != "cpu" else None
    oracle = Oracle(gpu)
    bases = corpus.bases(options.family, options.device, oracle)
    found: dict[str, Any] = {"counts": oracle.counts, "faults": oracle.faults}
    calls = ((op, how, first + at) for op, how, first, count in draws for at in range(count))
    so_far = Path(f"{options.box}.json")
    ops = corpus.ops_of(options.family, options.device)
    for number, (op, how, dice) in enumerate(itertools.islice(calls, options.calls)):
        if number < options.begin:
            continue
        if time.time() > options.until:
            break
        if number % _SAVED == 0:
            so_far.write_text(json.dumps(found), encoding="utf-8")
        if op not in ops:
            oracle.counts.update(("calls", "left out for want of the op"))
            continue
        if op not in bases:
            how = "generic"
        call = made(op, how, bases.get(op, []), dice, options.device)
        if gpu is not None and not kept(call):
            oracle.counts.update(("calls", "left out for what the op trusts"))
            continue
        box.note(number, f"{how}: {call}")
        if options.exact:
            # What the tool prints of the call comes after.
            print(f"{CALL}{how}: {str(call)[:2000]}", flush=True)
        try:
            oracle.check(how, call, dice)
        except BrokenError as error:
            oracle.counts["crashes"] += 1
            oracle.faults.setdefault(f"{op}: {error}", f"{how}: {str(call)[:2000]}")
            return found | {"next": number + 1}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family")
    parser.add_argument("seed", type=int)
    parser.add_argument("calls", type=int)
    parser.add_argument("device")
    parser.add_argument("box", type=Path)
    parser.add_argument("--read-calls", type=Path)
    parser.add_argument("--begin", type=int, default=0, help="leave out the calls before")
    parser.add_argument("--until", type=float, default=math.inf, help="seconds since the epoch")
    parser.add_argument("--exact", action="store_true", help="no bytes around a GPU's tensors")
    options = parser.parse_args()
    faulthandler.enable()
    family, number = options.family, options.seed
    if options.read_calls:
        draws = read(options.read_calls, family, number)
    else:
        draws = drawn(corpus.ops_of(family, options.device), number, options.calls, options.device)
    print(json.dumps(run(options, draws, BlackBox(options.box))))


if __name__ == "__main__":
    main()
