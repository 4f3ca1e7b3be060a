"""Every kernel test runs once per instruction-set tier that this build has and this CPU can run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import vllm_kernels  # noqa: F401  registers the ops
from vllm_kernels.engine_api import cpu_kernels

KERNELS = cpu_kernels()
TIERS = KERNELS.tiers() if KERNELS else {}


def _tier_parameters() -> list[object]:
    return [
        pytest.param(
            name,
            marks=[] if runnable else pytest.mark.skip(reason=f"this CPU or OS lacks tier {name}"),
        )
        for name, runnable in TIERS.items()
    ]


@pytest.fixture(params=_tier_parameters())
def tier(request: pytest.FixtureRequest) -> Iterator[str]:
    """Name of the tier that the CPU kernels are forced to for this test."""
    assert KERNELS is not None
    KERNELS.set_isa(request.param)
    yield str(request.param)
    KERNELS.set_isa(None)
