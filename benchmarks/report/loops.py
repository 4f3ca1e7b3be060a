"""The page of inner loops: instructions for a multiply-add, tier by tier."""

from __future__ import annotations

from benchmarks.loops import DOTS, LOOPS, ROWS, Loop, recorded
from benchmarks.report.markdown import HEADER, table

NAME = "inner-loops.md"
TEXT = """# Inner loops of matrix products

Multiply-adds an instruction of the inner loop, and how many of its instructions multiply: what can
be said of tiers whose CPUs are not at hand. Counted in machine code, commit {commit},
`python -m benchmarks.loops`. Vectors only, not AMX's tiles. Eight or so of a loop's instructions
ask for memory ahead and are skipped in most turns; they are counted. Where a tier has none for
bfloat16 or int8, many rows get B widened once and do not widen in their loop.
[What the figures say](../notes/arm_and_power.md).

"""


def page() -> dict[str, str]:
    """The page by its name, where loops were counted."""
    if not LOOPS.exists():
        return {}
    commit, loops = recorded()
    text = HEADER + TEXT.format(commit=commit)
    for rows in sorted(ROWS, reverse=True):
        text += f"## {rows} row{'s' if rows > 1 else ''}\n\n"
        of_rows = {(loop.tier, loop.dtype): loop for loop in loops if loop.rows == rows}
        tiers = list(dict.fromkeys(loop.tier for loop in loops))
        cells = ((tier, *(_cell(of_rows.get((tier, dtype))) for dtype in DOTS)) for tier in tiers)
        text += table(("tier", *(f"{dtype}>" for dtype in DOTS)), cells) + "\n"
    return {NAME: text.rstrip("\n") + "\n"}


def _cell(loop: Loop | None) -> str:
    if loop is None:
        return "-"
    return f"{loop.per_instruction:.1f} ({loop.multiplies} of {loop.instructions})"
