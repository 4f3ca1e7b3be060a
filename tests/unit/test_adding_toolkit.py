"""A CUDA toolkit is two tables (docs/developers/adding.md)."""

from __future__ import annotations

import re

import pytest
from handwritten import files_with
from support import ROOT

from vllm_conda.targets import load_targets

TARGETS = load_targets(ROOT)
ALLOWED = {"targets.toml", "src/vllm_conda/toolchain/cuda/13.toml"}
# Pages, tests, and a comment on the versions whose output a reader of machine code was written by.
ASIDE = re.compile(
    r"(docs|tests|variants|benchmarks)/|\.ci_support/|.*\.md$|src/vllm_conda/audit/fatbin\.py$"
)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_files_that_name_the_newest_toolkit() -> None:
    newest = list(TARGETS.cuda.toolkits)[-1]
    pattern = re.compile(rf"(?<![\d.]){re.escape(newest)}(?![\d.])")
    assert files_with(pattern, ASIDE) == ALLOWED
