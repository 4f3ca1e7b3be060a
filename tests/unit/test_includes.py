"""Which folder of csrc includes which, and where instructions stand (docs/developers)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import ROOT

CSRC = ROOT / "csrc"
# Generated files gather what all families have.
SOURCES = sorted(
    path
    for path in CSRC.rglob("*")
    if re.search(r"\.(h|cc|cuh?|in)$", path.name) and path.parent.name != "generated"
)
COMMON = {
    "core": {"core"},
    "torch": {"core", "torch"},
    "cpu": {"core", "cpu", "cpu/generated"},
    "cuda/ptx": {"cuda/ptx"},
    "rocm": {"rocm"},
    "rocm/cuda": {"rocm", "rocm/cuda"},
    "cuda/sm90": {"core", "cuda/ptx", "cuda/common", "cuda/sm90"},
    "cuda/common": {"core", "cuda/ptx", "cuda/common"},
}
# Families that use another's packed weights, tiles, epilogue or search.
FRIENDS = {
    "cpu/moe_gemm": {"cpu/gemm", "cpu/packed"},
    "cpu/moe_routing": {"cpu/sampling"},
    "cpu/packed": {"cpu/gemm", "cpu/quant"},
    "cpu/wna16": {"cpu/gemm"},
    "cuda/gemm": {"cuda/moe_gemm"},
    "cuda/sparse_gemm": {"cuda/gemm"},
}


def folder_of(name: str) -> str:
    """``cuda/norm`` of ``cuda/norm/norm.h``, and of its subfolders; ``cpu`` of ``cpu/vec.h``."""
    parts = name.split("/")
    return "/".join(parts[:2]) if len(parts) > 2 else parts[0]


def allowed(name: str) -> set[str]:
    folder = folder_of(name)
    if folder in COMMON:
        return COMMON[folder]
    device = folder.partition("/")[0]
    found = {"core", folder, *FRIENDS.get(folder, ())}
    found |= {"cpu"} if device == "cpu" else {"cuda/ptx", "cuda/sm90", "cuda/common"}
    return found | {"torch"} if re.search(r"/binding\w*\.(cc|h)$", name) else found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(CSRC)))
def test_includes(path: Path) -> None:
    name = str(path.relative_to(CSRC))
    includes = re.findall(r'^#include "([^"]+)"', path.read_text(), re.MULTILINE)
    ours = [one for one in includes if (CSRC / one).is_file()]
    assert {folder_of(one) for one in ours} <= allowed(name)


def test_asm_only_in_ptx() -> None:
    cuda = [path for path in SOURCES if path.is_relative_to(CSRC / "cuda")]
    found = {path.parent.name for path in cuda if re.search(r"\basm\b.*\(", path.read_text())}
    assert found == {"ptx"}


def test_each_instruction_header_has_a_host_double() -> None:
    doubles = ROOT / "tests" / "kernels" / "cuda" / "emulation" / "cuda" / "ptx"
    headers = {path.name for path in (CSRC / "cuda" / "ptx").glob("*.cuh")}
    assert headers == {path.name for path in doubles.glob("*.cuh")}
