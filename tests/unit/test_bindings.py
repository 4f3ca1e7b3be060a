"""Every op of ops.def is bound by its family on each device that has a kernel of it, by sources."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import ROOT

ROW = re.compile(r"^VK_(\w*?)_?OP\((\w+), (\w+), (\w+),", re.MULTILINE)
BINDING = re.compile(r"^VK_(?:BIND|IMPL)\((\w+), (\w+),\s", re.MULTILINE)
KERNELS = {"": ("cpu", "cuda"), "CPU": ("cpu",), "CUDA": ("cuda",), "CUDA_REFERENCE": ()}
ROWS = ROW.findall((ROOT / "csrc/torch/ops.def").read_text())


def bound(device: str) -> list[tuple[str, str]]:
    """Family and op of every line of the device's bindings."""
    return [
        (path.parent.name, op)
        for path in sorted((ROOT / "csrc" / device).glob("*/binding*.cc"))
        for _, op in BINDING.findall(path.read_text())
    ]


def test_rows_are_read() -> None:
    assert len(ROWS) > 100
    assert len({name for *_, name in ROWS}) == len(ROWS)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_each_op_is_bound_once_by_its_family(device: str) -> None:
    wanted = {(family, op) for kind, family, _, op in ROWS if device in KERNELS[kind]}
    found = bound(device)
    assert len(set(found)) == len(found)
    assert wanted <= set(found)
    # A kernel may be there for what the engine has on the other device alone.
    assert set(found) <= {(family, op) for _, family, _, op in ROWS}


def test_ops_without_a_kernel() -> None:
    """The declared exceptions; a new one is a decision."""
    assert {op for kind, *_, op in ROWS if kind == "CUDA_REFERENCE"} == {
        "cutlass_scaled_mm_supports_fp4",
        "fp32_router_gemm",
    }


# Of fixed sizes, or of those of a tensor that is there without elements.
MADE_ELSEWHERE = {"csrc/cuda/all_reduce/binding.cc", "csrc/cuda/runtime/binding.cc"}


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "csrc").glob("*/*/binding*.*")),
    ids=lambda path: "/".join(path.parts[-2:]),
)
def test_results_have_sizes_that_can_be(path: Path) -> None:
    """PyTorch's refusal comes with a stack on stderr: csrc/torch/results.h asks before."""
    made = re.findall(r"stable::(?:new_)?(?:empty|zeros|full)\b", path.read_text())
    assert not made or path.relative_to(ROOT).as_posix() in MADE_ELSEWHERE
