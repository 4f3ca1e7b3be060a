"""The page of inner loops: instructions for a multiply-add, tier by tier."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.loops import DTYPES, LOOPS, Loop, recorded
from benchmarks.report.markdown import HEADER, table

NAME = "inner-loops.md"
TEXT = """# Inner loops of matrix products

Multiply-adds an instruction of the inner loop, and how many of its instructions multiply: what can
be said of tiers whose CPUs are not at hand. Counted in machine code, commit {commit},
`python -m benchmarks.loops`. Vectors, and the matrix instructions of ARM and POWER10, not AMX's
tiles. Eight or so of a loop's instructions (of POWER twenty) ask for memory ahead and are skipped
in most turns; they are counted. Where a tier has none for bfloat16 or int8, many rows get B widened
once and do not widen in their loop. POWER10's accumulators have rows in fours: those beyond are not
counted.
[What the figures say](../notes/arm_and_power.md).

"""


def page() -> dict[str, str]:
    """The page by its name, where loops were counted."""
    if not LOOPS.exists():
        return {}
    commit, loops = recorded()
    text = HEADER + TEXT.format(commit=commit)
    text += "## As many rows as a loop takes\n\nSix, and more by matrix instructions.\n\n"
    text += _table(loops, sorted(loops, key=lambda loop: loop.rows))
    for rows in (6, 1):
        text += f"\n## {rows} row{'s' if rows > 1 else ''}\n\n"
        text += _table(loops, [loop for loop in loops if loop.rows == rows])
    return {NAME: text}


def _table(loops: Sequence[Loop], shown: Sequence[Loop]) -> str:
    """A row for each tier; of several loops of a tier and dtype the last one shown."""
    found = {(loop.tier, loop.dtype): loop for loop in shown}
    tiers = list(dict.fromkeys(loop.tier for loop in loops if loop.rows == 1))
    cells = ((tier, *(_cell(found.get((tier, dtype))) for dtype in DTYPES)) for tier in tiers)
    return table(("tier", *(f"{dtype}>" for dtype in DTYPES)), cells)


def _cell(loop: Loop | None) -> str:
    if loop is None:
        return "-"
    return f"{loop.per_instruction:.1f} ({loop.multiplies} of {loop.instructions})"
