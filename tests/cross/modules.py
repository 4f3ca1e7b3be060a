"""Which modules of tests/kernels/cpu an emulated driver serves."""

from __future__ import annotations

from collections.abc import Iterable

# These set variables of this process, which the driver does not see (gemm_compact), or ask for what
# the driver does not have: the bindings' refusals (arguments), operations on lists of integers that
# are of no tier (drafting).
OF_THIS_PROCESS = ("test_arguments", "test_drafting", "test_gemm_compact")


def family_of(module: str, families: Iterable[str]) -> str:
    """``gemm`` for test_gemm and test_gemm_scaled; empty: its ops are not the driver's.

    Such a module would compare references with themselves.
    """
    if module in OF_THIS_PROCESS:
        return ""
    found = (name for name in families if f"{module}_".startswith(f"test_{name}_"))
    return max(found, key=len, default="")
