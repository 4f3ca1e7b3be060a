"""What a benchmark gives the harness: cases and the calls that compete in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from benchmarks.record import label

Call = Callable[[], object]

# Up to so many tokens a product reads its weights for few rows: the load of decoding.
DECODE_TOKENS = 64


@dataclass(frozen=True)
class Case:
    """One shape and dtype of one op.

    Attributes:
        shape: Sizes by name, in the order in which they are printed.
        make: Returns calls by contender's name, "ours" among them, over tensors of their own. It
            is called once for each set of tensors that the timer wants. Names that begin with
            "ours" are other forms of the op, which count as no peers.
        group: The kind of load ("decode", "prefill"), by which figures are summed up.
        variant: What distinguishes the case besides shape and dtype.
        bytes_moved: The least memory traffic of one call: every input read and every result
            written once.
        flops: Arithmetic operations of one call.
    """

    op: str
    shape: Mapping[str, int]
    dtype: str
    make: Callable[[], dict[str, Call]]
    group: str
    variant: str = ""
    bytes_moved: int | None = None
    flops: int | None = None

    @property
    def label(self) -> str:
        return label(self.op, self.variant, self.shape, self.dtype)


def load(tokens: int) -> str:
    """The group of a case with so many rows."""
    return "decode" if tokens <= DECODE_TOKENS else "prefill"


class Compilation:
    """Whether torch.compile is among the peers: compiling can take most of a run."""

    wanted = True


def left_out() -> None:
    """Stands for a peer that is not measured."""


def compiled(function: Callable[..., object], *args: object, **kwargs: object) -> Call:
    """`function(*args, **kwargs)` through torch.compile (default mode, static shapes), warm."""
    if not Compilation.wanted:
        return left_out
    fast = torch.compile(function, dynamic=False)
    for _ in range(3):
        fast(*args, **kwargs)
    return lambda: fast(*args, **kwargs)


def offered(peers: Mapping[str, Call]) -> dict[str, Call]:
    """The peers that this PyTorch has for the device and the shape."""

    def runs(call: Call) -> bool:
        try:
            call()
        except RuntimeError:
            return False
        return True

    return {name: call for name, call in peers.items() if runs(call)}


def behind_another(calls: Mapping[str, Call], between: torch.Tensor) -> dict[str, Call]:
    """Each call behind a kernel that lets it start no earlier than it must, as models have."""

    def pair(call: Call) -> Call:
        def both() -> object:
            between.neg_()
            return call()

        return both

    return {name: pair(call) for name, call in calls.items()}
