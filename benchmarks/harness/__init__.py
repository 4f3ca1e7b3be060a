"""Side-by-side timing of an op and its peers, in one process and one run, on a CPU or a GPU.

A benchmark of a family yields cases and hands them to `main`:

    def cases() -> Iterator[Case]:
        for tokens in (1, 2048):

            def make() -> dict[str, Call]:
                x = torch.randn(tokens, 4096)
                out = torch.empty_like(x)
                return {"ours": lambda: ops.silu(out, x), "eager": lambda: F.silu(x)}

            shape = {"tokens": tokens, "width": 4096}
            yield Case("silu", shape, "f32", make, load(tokens), bytes_moved=8 * tokens * 4096)

    if __name__ == "__main__":
        raise SystemExit(main("cpu", "activation", cases))

All contenders of a case take turns, block by block, so that whatever else the machine does hits
all of them alike; the figure that counts is the ratio of medians within one run.
"""

from __future__ import annotations

from benchmarks.harness.case import (
    Call,
    Case,
    Compilation,
    behind_another,
    compiled,
    left_out,
    load,
    offered,
)
from benchmarks.harness.command import main

__all__ = [
    "Call",
    "Case",
    "Compilation",
    "behind_another",
    "compiled",
    "left_out",
    "load",
    "main",
    "offered",
]
