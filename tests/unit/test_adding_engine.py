"""The packaged engine's version stands in tables and recipes (docs/developers/adding.md)."""

from __future__ import annotations

import re

import pytest
from handwritten import files_with
from support import ROOT

from vllm_conda.targets import load_targets

ENGINE = load_targets(ROOT).engine
# `vllm-conda lint` compares the recipes with the table: a feedstock holds them alone.
ALLOWED = {
    "targets.toml",
    "recipe/engine/recipe.yaml",
    "src/vllm_kernels_plugin/engines.tsv",
}
ASIDE = re.compile(r"(docs|tests|variants|benchmarks)/|\.ci_support/|.*/generated/|.*\.md$")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_files_that_name_the_engines_version() -> None:
    # Wheels may have the same version by chance.
    minor = ENGINE.release.rpartition(".")[0]
    pattern = re.compile(rf"(?<![\d.=]){re.escape(minor)}(?!\d)")
    assert files_with(pattern, ASIDE) == ALLOWED
