"""The doors between the repository's products: who may import what."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from vllm_conda import toolchain
from vllm_conda.structure import tomllib

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "src/vllm_kernels"
# Tests of the private modules themselves.
OWN_TESTS = ROOT / "tests/unit/kernels"
TOOLCHAIN = "vllm_conda.toolchain"
PRIVATE = re.compile(r"vllm_kernels\._[a-z]|from vllm_kernels import (?:\w+, )*_[a-z]")


def _python_files() -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    return [path for path in (ROOT / name for name in names) if path.is_file()]


def imports(path: Path) -> Iterator[str]:
    """Qualified names of all that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_private_modules_of_the_kernels_stay_private() -> None:
    """Programs in strings count too: the engine's tests run such in processes of their own."""
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in _python_files()
        if KERNELS not in path.parents and OWN_TESTS not in path.parents
        for match in PRIVATE.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not found, "use vllm_kernels.engine_api instead"


def test_the_channel_maker_has_one_door() -> None:
    """Outside of it, only the names that its package itself exports."""
    inside = (ROOT / "src/vllm_conda/toolchain", ROOT / "tests/unit/toolchain")
    of_its_own = (
        *inside,
        ROOT / "tests/build/test_toolchain.py",
        ROOT / "tests/unit/malformed/test_formats.py",
        ROOT / "scripts/test_userland.py",
        ROOT / "tests/solve/test_serving.py",
        ROOT / "tests/clients/test_levels_in_clients.py",
    )
    allowed = {TOOLCHAIN, *(f"{TOOLCHAIN}.{name}" for name in toolchain.__all__)}
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in _python_files()
        if not {path, *path.parents} & {*of_its_own}
        for name in imports(path)
        if name.startswith(f"{TOOLCHAIN}.") and name not in allowed
    }
    assert not found


@pytest.mark.parametrize("package", ["vllm_kernels", "vllm_kernels_plugin", "vllm_cuda_plan"])
def test_no_product_needs_the_toolkit(package: str) -> None:
    for path in (ROOT / "src" / package).rglob("*.py"):
        found = [name for name in imports(path) if name.split(".")[0] == "vllm_conda"]
        assert not found, path


def test_what_the_toolkit_imports_is_among_its_dependencies() -> None:
    """But not programs that run in an engine's environment."""
    project = tomllib.loads((ROOT / "packages/toolkit/pyproject.toml").read_text())["project"]
    keyless = project["optional-dependencies"]["keyless"]
    declared = {Requirement(line).name for line in (*project["dependencies"], *keyless)}
    providers = packages_distributions() | {"sigstore": ["sigstore"], "tomli": ["tomli"]}
    own = {"vllm_conda", "vllm_cuda_plan"}
    missing = {
        f"{path.relative_to(ROOT)}: {top}"
        for name in own
        for path in (ROOT / "src" / name).rglob("*.py")
        if path.parent != ROOT / "src/vllm_conda/engine/inside"
        for top in {one.split(".")[0] for one in imports(path)} - own - sys.stdlib_module_names
        if not declared & {provider.lower() for provider in providers.get(top, ())}
    }
    assert not missing
