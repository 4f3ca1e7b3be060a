"""A CUDA family is a folder and lines of few files more (docs/developers/adding.md)."""

from __future__ import annotations

import re

import pytest
from handwritten import files_with
from support import ROOT

from vllm_conda.families import read_families

FAMILIES = read_families(ROOT)
# Besides csrc/cuda/FAMILY, its reference, tests and benchmark.
FILES = {"csrc/torch/ops.def"}
MOST = 6
# What is the family's own, and the CPU's family of the name; what describes.
ASIDE = re.compile(
    r"csrc/(cpu|cuda)/|src/vllm_kernels/reference/|(docs|benchmarks|recipe|tests)/|.*\.md$"
)


def exported(family: str) -> set[str]:
    """The C functions of a family."""
    headers = (ROOT / "csrc/cuda" / family).rglob("*.h")
    text = "".join(path.read_text() for path in headers)
    return set(re.findall(r"\bvk_cuda_\w+(?=\()", text))


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_files_that_name_a_family() -> None:
    family = "sampling"  # no word of other tools, as norm and cache are
    words = {f"cuda/{family}", f"cuda_{family}", *exported(family)}
    pattern = re.compile(rf"\b({'|'.join(sorted(words))})\b|_OP\({family},")
    found = files_with(pattern, ASIDE)
    assert found == FILES
    pieces = {f"csrc/cuda/{family}/{name}" for name in ("family.toml", "binding.cc")}
    pieces |= {f"csrc/cuda/{family}/{family}.h", f"csrc/cuda/{family}/{family}.cc"}
    assert all((ROOT / piece).is_file() for piece in pieces)
    assert len(found | pieces) < MOST, "with one file of kernels"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_one_folder(family: str) -> None:
    folder = ROOT / "csrc/cuda" / family
    assert (folder / "binding.cc").is_file()
    assert (folder / f"{family}.h").is_file()
    assert exported(family), f"csrc/cuda/{family} exports nothing"
