"""Which cases of a test stand for all of them where each one is emulated.

Every value of every parameter is among them, and the values of different parameters meet evenly:
each dtype, each odd shape, each feature is seen, not each dtype with each shape. Where the search
starts depends on a seed, so that what does not meet on one tier does on another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from zlib import crc32


def spread(cases: Sequence[Mapping[str, Hashable]], seed: str = "") -> list[int]:
    """Positions of a small set of ``cases`` that has every value of every parameter.

    Args:
        cases: For each case, its value of each parameter.
        seed: Another one gives another set of about the same size.
    """
    first = crc32(seed.encode()) % len(cases) if cases else 0
    left = [*range(first, len(cases)), *range(first)]
    used: Counter[tuple[str, Hashable]] = Counter()
    chosen: list[int] = []

    def merit(case: int) -> tuple[int, int]:
        values = [used[value] for value in cases[case].items()]
        return values.count(0), -sum(values)

    while left:
        best = max(left, key=merit)
        if chosen and merit(best)[0] == 0:
            break
        left.remove(best)
        chosen.append(best)
        used.update(cases[best].items())
    return sorted(chosen)


def keep(
    cases: Sequence[Mapping[str, Hashable]], step: int, seed: str = "", whole: bool = False
) -> set[int]:
    """Positions of the cases to run.

    Args:
        step: 1 for all; else every Nth of those that :func:`spread` leaves out is kept too.
        whole: All of them whatever the step.
    """
    if whole or step <= 1:
        return set(range(len(cases)))
    chosen = set(spread(cases, seed))
    rest = [case for case in range(len(cases)) if case not in chosen]
    return chosen | set(rest[step - 1 :: step])
