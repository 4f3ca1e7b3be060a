"""Which runs a full test makes that nobody has recorded: the holes in the page of runs."""

from __future__ import annotations

from pathlib import Path

from vllm_conda.engine import left_out
from vllm_conda.engine.cases import Case, Options, cases

# What the optional packages of Hopper change; other models run the same without them.
OF_PACKAGES = ("deepseek_v2", "deepseek_v3", "deepseek_v32", "llama_fp8", "qwen3_moe_fp8")
OF_PACKAGES_DTYPE = "bfloat16"
# How the name of a GPU says that some of them are not installed.
WITHOUT = " without "
# Every engine between the oldest and the newest takes a small one through.
BETWEEN = ("trial", "llama", "eager")


def expected(
    engine: str, device: str, name: str, packages: frozenset[str], whole: bool
) -> list[Case]:
    """The runs of one engine on one machine, in the order in which a full test makes them.

    Args:
        name: Of the machine, which says what is not installed there.
        packages: Python packages that are known to be installed.
        whole: Every model and mode; a small Llama otherwise.
    """
    options = Options(
        Path(), Path(), "", full=True, device=device, gpus=2, engine=engine,
        lacks=left_out.packages() - packages,
    )  # fmt: skip
    found = cases(options)
    if not whole:
        # In the first type that the device has.
        found = [case for case in found if (case.program, case.model, case.mode) == BETWEEN][:1]
    elif WITHOUT in name:
        found = [
            case
            for case in found
            if case.program == BETWEEN[0]
            and case.model in OF_PACKAGES
            and case.dtype == OF_PACKAGES_DTYPE
        ]
    return found
