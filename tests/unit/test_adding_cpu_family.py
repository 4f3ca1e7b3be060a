"""A CPU family is a folder and lines of few files more (docs/developers/adding.md)."""

from __future__ import annotations

import re

import pytest
from handwritten import files_with
from support import ROOT

from vllm_conda.emulate import cpu_functions
from vllm_conda.generate.build import kernel_table
from vllm_conda.targets import load_targets

FAMILIES = load_targets(ROOT).families
# Besides csrc/cpu/FAMILY, its reference, checks, tests and benchmark.
FILES = {"targets.toml", "csrc/torch/ops.def"}
# What is the family's own, and CUDA's family of the name; what describes.
ASIDE = re.compile(
    r"csrc/(cpu|cuda)/|src/vllm_kernels/(reference|_selftest_checks)/|(docs|benchmarks|recipe)/|tests/(?!cross/)|.*\.md$"
    r"|.*/engines\.tsv$"  # the engines' ops, written by a command
)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_files_that_name_a_family() -> None:
    family = "rope"  # other families are examples in tests and tools as well
    words = {f"cpu/{family}", kernel_table(family), *cpu_functions(ROOT, family)}
    pattern = re.compile(rf"\b({'|'.join(sorted(words))})\b|\({family},|^{family} =", re.MULTILINE)
    assert files_with(pattern, ASIDE) == FILES


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_one_folder(family: str) -> None:
    folder = ROOT / "csrc/cpu" / family
    assert f"struct {kernel_table(family)} {{" in "".join(
        path.read_text() for path in folder.glob("*.h")
    )
    functions = cpu_functions(ROOT, family)
    assert functions, f"csrc/cpu/{family}/{family}.h exports nothing"
    # PyTorch's symbols come with libtorch.so only when it is loaded, so the linker does not ask for
    # those that binding.cc uses.
    sources = "".join(path.read_text() for path in folder.glob("*.cc") if path.name != "binding.cc")
    missing = [name for name in functions if f"vk_cpu_{name}(" not in sources]
    assert not missing, (
        f"csrc/cpu/{family}/{family}.h declares {missing}: write them in {family}.cc"
    )
