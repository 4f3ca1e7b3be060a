"""``python -m vllm_kernels.selftest``: every op against its reference, on every tier, in seconds.

Meant for an installed package on the machine that will run it. Shapes are small; the exhaustive
tests are in the project's ``tests/kernels``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import vllm_kernels
from vllm_kernels import _libraries, _ops, reference
from vllm_kernels._libraries import cpu_kernels
from vllm_kernels._selftest_checks import CHECKS, Check

# (relative, absolute): a few roundings of the dtype; a quantised value may fall on either side.
_TOLERANCE = {
    torch.float32: (1e-4, 1e-4),
    torch.bfloat16: (3e-2, 3e-2),
    torch.float16: (4e-3, 4e-3),
    torch.int8: (0.0, 1.0),
}


@dataclass(frozen=True)
class Outcome:
    """What a run compared, and a sentence for each difference."""

    tiers: list[str]
    ops: int
    comparisons: int
    failures: list[str]


def references() -> Any:
    """The reference implementations as attributes, like ``torch.ops.vllm_kernels``."""
    return SimpleNamespace(**reference.implementations(_ops.names()))


def difference(actual: Tensor, expected: Tensor) -> str | None:
    """How far two results are apart, or None where they agree."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return (
            f"is {actual.dtype} {list(actual.shape)}, not {expected.dtype} {list(expected.shape)}"
        )
    rtol, atol = _TOLERANCE.get(actual.dtype, (0.0, 0.0))
    wide, want = actual.double(), expected.double()
    bad = ~torch.isclose(wide, want, rtol=rtol, atol=atol, equal_nan=True)
    if not bad.any():
        return None
    gap = (wide - want).abs()[bad].max().item()
    return f"differs in {int(bad.sum())} of {bad.numel()} elements, by up to {gap:.3g}"


def call(provider: Any) -> None:
    """Make the calls of every check on ``provider``, such as one that records them."""
    for check in CHECKS:
        for dtype in check.dtypes:
            _run(check, provider, dtype)


def _run(check: Check, provider: Any, dtype: torch.dtype) -> list[Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # both providers must get the same random numbers
        return check.run(provider, dtype)


def compare(check: Check, dtype: torch.dtype, expected: list[Tensor]) -> Iterator[str]:
    """Run `check` on the registered ops; a sentence for everything that is wrong."""
    name = f"{check.ops[-1]}, {str(dtype).removeprefix('torch.')}"
    try:
        actual = _run(check, torch.ops.vllm_kernels, dtype)
    except (RuntimeError, NotImplementedError) as error:
        yield f"{name}: failed: {str(error).splitlines()[0]}"
        return
    for index, (got, want) in enumerate(zip(actual, expected, strict=True)):
        if said := difference(got, want):
            yield f"{name}: result {index} {said}"


def _uncovered() -> Iterator[str]:
    """Sentences for ops of the CPU that no check calls, and ops that have no reference."""
    covered = {op for check in CHECKS for op in check.ops}
    known = vars(references())
    for op in _ops.names():
        if op not in covered and "cpu" in _libraries.devices_of(op):
            yield f"{op}: no check calls it; write one in vllm_kernels/_selftest_checks"
        if op not in known:
            yield f"{op}: it has no reference implementation; write one in vllm_kernels/reference"


@contextmanager
def _tier(name: str | None) -> Iterator[None]:
    before = vllm_kernels.cpu_isa()
    if name:
        vllm_kernels.set_cpu_isa(name)
    try:
        yield
    finally:
        if name:
            vllm_kernels.set_cpu_isa(before)


def runnable_tiers() -> list[str]:
    """Tiers of the CPU kernels in use that this machine can run, lowest first."""
    kernels = cpu_kernels() if "cpu" in vllm_kernels.backends() else None
    return [name for name, runnable in kernels.tiers().items() if runnable] if kernels else []


def run() -> Outcome:
    """Compare every op on every runnable tier with its reference."""
    failures = list(_uncovered())
    tiers = runnable_tiers()
    choices: list[str | None] = [*tiers] or [None]
    provider = references()
    comparisons = 0
    for check in CHECKS:
        if not all(hasattr(provider, op) for op in check.ops):
            continue  # said by _uncovered
        for dtype in check.dtypes:
            expected = _run(check, provider, dtype)
            for tier in choices:
                comparisons += 1
                with _tier(tier):
                    said = list(compare(check, dtype, expected))
                failures += [f"{tier}: {sentence}" if tier else sentence for sentence in said]
    return Outcome(tiers, len(_ops.names()), comparisons, failures)


def main(argv: list[str] | None = None) -> int:
    """Print what differs; 0 where all agree, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m vllm_kernels.selftest",
        description="Compare every op with its PyTorch reference, on every tier of this CPU.",
        epilog="Exit code: 0 all agree, 1 a difference, 2 wrong usage.",
    )
    parser.parse_args(argv)
    begin = time.monotonic()
    outcome = run()
    for failure in outcome.failures:
        print(failure)
    print(
        f"{outcome.ops} ops, backend {', '.join(vllm_kernels.backends())}, tiers "
        f"{', '.join(outcome.tiers) or 'none'}: {outcome.comparisons} comparisons, "
        f"{len(outcome.failures)} failures, {time.monotonic() - begin:.1f} s"
    )
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
