"""Measures how fast this process reads memory, in bytes a second: `python bandwidth.py FILE`.

A dot product of a vector with itself, far larger than any cache, reads each element once and does
little else; the best of several is the memory's, not that of a moment.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

ELEMENTS = 1 << 28
REPEATS = 12


def read_bandwidth() -> float:
    """Bytes a second, with PyTorch's threads."""
    x = torch.ones(ELEMENTS, dtype=torch.float32)
    best = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        torch.dot(x, x)
        best = min(best, time.perf_counter() - started)
    return x.nbytes / best


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps({"read_bandwidth": read_bandwidth()}) + "\n")
