"""Which op is called how: drawn by hypothesis, or read from a file of such draws.

A file serves a machine without hypothesis, whose later releases are compiled for each Python, and
makes a run there the one that was written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

# Op, how its calls come to be, the seed of the first of them, and how many there are.
Draw = tuple[str, str, int, int]

# Calls of one draw: hypothesis takes longer to draw than a call to be made and checked.
BURST = 10
# Most spoilt calls are refused before a kernel runs, which shows a sanitizer of a GPU nothing.
_HOWS = {
    "cpu": ("valid", "valid", "spoilt", "spoilt", "spoilt", "generic"),
    "cuda": (*["valid"] * 7, "spoilt", "spoilt", "generic"),
}


def drawn(ops: Iterable[str], number: int, calls: int, device: str) -> list[Draw]:
    """``BURST`` calls a draw.

    ``number`` is hypothesis' seed.
    """
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st

    draw = st.tuples(
        st.sampled_from(sorted(ops)), st.sampled_from(_HOWS[device]), st.integers(0, 2**32 - 1)
    )
    found: list[Draw] = []

    @seed(number)
    @settings(
        max_examples=-(-calls // BURST),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(draw)
    def keep(one: tuple[str, str, int]) -> None:
        found.append((*one, BURST))

    keep()
    return found


def write(
    path: Path, families: dict[str, list[str]], numbers: Sequence[int], calls: int, device: str
) -> None:
    """The draws of batches of ``calls`` calls, by family and seed."""
    found = {
        f"{family} {number}": drawn(ops, number, calls, device)
        for family, ops in families.items()
        for number in numbers
    }
    path.write_text(json.dumps({"batches": found}), encoding="utf-8")


def batches(path: Path) -> list[tuple[str, int]]:
    """Family and seed of each batch of a file of ``write``, in the file's order."""
    names = (name.split() for name in json.loads(path.read_text(encoding="utf-8"))["batches"])
    return [(family, int(number)) for family, number in names]


def read(path: Path, family: str, number: int) -> list[Draw]:
    """One batch of ``write``."""
    found = json.loads(path.read_text(encoding="utf-8"))["batches"][f"{family} {number}"]
    return [(op, how, first, count) for op, how, first, count in found]
