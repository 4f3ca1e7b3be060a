"""One case: all contenders in turns."""

from __future__ import annotations

import statistics

from benchmarks.harness.case import Case, left_out
from benchmarks.harness.timer import Effort, Timer
from benchmarks.record import KernelCase, Timing

OURS = "ours"


def in_turn(names: list[str], number: int) -> list[str]:
    """The contenders in the order of a block or round: another one first each time."""
    first = number % len(names)
    return names[first:] + names[:first]


def measure(case: Case, timer: Timer, effort: Effort) -> KernelCase:
    """Time all contenders of ``case`` in blocks; the one that goes first rotates.

    Raises:
        ValueError: None of them is ours.
    """
    sets = [case.make() for _ in range(timer.sets(case.bytes_moved))]
    names = [name for name, call in sets[0].items() if call is not left_out]
    if OURS not in names:
        raise ValueError(f"{case.op}: no contender is named {OURS!r}; there are: {names}")
    contenders = {name: timer.contender([calls[name] for calls in sets], effort) for name in names}
    samples: dict[str, list[float]] = {name: [] for name in names}
    deadline = timer.now() + effort.seconds * len(names)
    for block in range(effort.max_blocks):
        if block >= effort.min_blocks and timer.now() > deadline:
            break
        for name in in_turn(names, block):
            samples[name].append(contenders[name].sample())
    timings = {
        name: Timing(statistics.median(taken), min(taken)) for name, taken in samples.items()
    }
    return KernelCase(
        op=case.op,
        variant=case.variant,
        shape=dict(case.shape),
        dtype=case.dtype,
        group=case.group,
        bytes_moved=case.bytes_moved,
        flops=case.flops,
        ours=timings.pop(OURS),
        forms={name: taken for name, taken in timings.items() if name.startswith(OURS)},
        peers={name: taken for name, taken in timings.items() if not name.startswith(OURS)},
    )
