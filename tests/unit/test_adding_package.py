"""A package is a row of [packages] and what its kernels need (docs/developers/adding.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from support import ROOT

from vllm_conda.jobs import jobs
from vllm_conda.matrix import packages
from vllm_conda.targets import load_targets, parse_targets, read_table

TARGETS = load_targets(ROOT)
MODULES = sorted((ROOT / "src/vllm_conda").rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_no_module_names_a_package(path: Path) -> None:
    tree = ast.parse(path.read_text())
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert not words & set(TARGETS.packages), "take it from vllm_conda.packages"


def test_a_planted_package_reaches_the_jobs() -> None:
    data = read_table(ROOT)
    data["packages"]["vllm-more"] = {"device": "cuda", "slices": False}
    targets = parse_targets(data)
    for job in jobs(targets):
        wanted = job.device == "cuda" and not job.opt_in
        assert ("vllm-more" in packages(targets, job)) is wanted
    data["packages"]["vllm-more"]["device"] = "npu"
    data["feedstock"]["devices"]["npu"] = data["feedstock"]["devices"]["cuda"]
    assert parse_targets(data).devices == ("cpu", "rocm", "cuda", "npu")
