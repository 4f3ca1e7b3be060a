"""Tests that travel in packages find what they import."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support import ROOT

TESTS = ROOT / "tests"
KERNELS = TESTS / "kernels"
RECIPE = yaml.safe_load((ROOT / "recipe/recipe.yaml").read_text(encoding="utf-8"))
OUTPUTS = [output for output in RECIPE["outputs"] if "package" in output]


def travelling(output: dict[str, object]) -> set[Path]:
    """The files of tests/kernels that a package has and its own test looks at."""
    sources = output.get("source", [])
    assert isinstance(sources, list)
    paths = [(ROOT / "recipe" / source["path"]).resolve() for source in sources]
    files = {file for path in paths for file in (path.rglob("*.py") if path.is_dir() else (path,))}
    left_out = {ROOT / one for one in re.findall(r"--ignore ([\w/.]+)", str(output.get("tests")))}
    return {file for file in files if KERNELS in file.parents and file not in left_out}


def imported(file: Path) -> Iterator[Path]:
    """The files of the checkout's tests that ``file`` imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names: list[tuple[Path, str]] = []
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = file.parents[node.level - 1]
            inside = [node.module] if node.module else [one.name for one in node.names]
            names = [(folder, str(name)) for name in inside]
        elif isinstance(node, ast.ImportFrom):
            names = [(TESTS, str(node.module))]
        elif isinstance(node, ast.Import):
            names = [(TESTS, one.name) for one in node.names]
        for folder, name in names:
            # Of a checkout's root the same files are below `tests`.
            path = folder.joinpath(*name.removeprefix("tests.").split("."))
            path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            if folder != TESTS or path.is_file():
                yield path


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: output["package"]["name"])
def test_what_they_import_travels_too(output: dict[str, object]) -> None:
    files = travelling(output)
    missing = {
        f"{file.relative_to(KERNELS)} imports {path.relative_to(TESTS)}"
        for file in files
        for path in imported(file)
        if path not in files
    }
    assert not missing
