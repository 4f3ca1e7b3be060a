"""The planner that CMake runs: the standard library is all it needs."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "src/vllm_cuda_plan"
# -I -S: neither PYTHONPATH nor site-packages. The folder holds the planner and nothing else.
RUN = """
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
runpy.run_module("vllm_cuda_plan", run_name="__main__")
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    shutil.copytree(PACKAGE, folder / "vllm_cuda_plan", ignore=shutil.ignore_patterns("*.pyc"))
    command = [sys.executable, "-I", "-S", "-c", RUN, str(folder)]
    files = ["--cmake", str(folder / "plan.cmake"), "--summary", str(folder / "cuda.json")]
    return subprocess.run([*command, *files, *arguments], capture_output=True, text=True)


def test_runs_without_any_package(tmp_path: Path) -> None:
    done = run(tmp_path, "--cuda", "13.0", "--archs", "9.0a", "--have", "norm:")
    assert done.returncode == 0, done.stderr
    assert "CUDA 13.0, asked for 9.0a" in done.stdout
    assert "set(VLLM_CUDA_BUILT norm)" in (tmp_path / "plan.cmake").read_text()
    assert json.loads((tmp_path / "cuda.json").read_text())["request"] == "9.0a"


def test_refuses_in_one_sentence(tmp_path: Path) -> None:
    done = run(tmp_path, "--cuda", "11.8")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "CUDA 11.8 cannot be used" in done.stderr


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_imports_itself_and_the_standard_library(path: Path) -> None:
    allowed = {*sys.stdlib_module_names, PACKAGE.name}
    # The oldest Python that builds the kernels has to parse it.
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        assert {name.partition(".")[0] for name in names} <= allowed
