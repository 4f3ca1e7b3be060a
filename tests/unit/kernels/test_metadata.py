"""Version and requirements stand in targets.toml and reach every layout from there."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest
from built import require_kernels

require_kernels()


from vllm_kernels import _metadata

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[3]
TABLE = tomllib.loads((ROOT / "targets.toml").read_text())
PROJECT = TABLE["project"]


def pyproject() -> dict[str, object]:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert isinstance(document["project"], dict)
    return document["project"]


def test_checkout_reads_the_table() -> None:
    assert _metadata.version() == PROJECT["version"]
    assert _metadata.torch_minimum() == PROJECT["torch_target"]


def test_wheel_repeats_nothing_but_the_requirements() -> None:
    project = pyproject()
    assert "version" not in project
    assert f"torch>={PROJECT['torch_target']}" in project["dependencies"]  # type: ignore[operator]
    assert project["requires-python"] == f">={PROJECT['python_min']}"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Make the package look installed, with these requirements."""
    requirements: dict[str, list[str]] = {"vllm-kernels": ["torch>=2.11", "numpy"]}
    monkeypatch.setattr(_metadata, "_checkout_table", lambda: None)
    monkeypatch.setattr(importlib.metadata, "requires", requirements.__getitem__)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: {"vllm-kernels": "9.8"}[name])
    return requirements


def test_installed_package_reads_its_dist_info(installed: dict[str, list[str]]) -> None:
    assert _metadata.version() == "9.8"
    assert _metadata.torch_minimum() == "2.11"


@pytest.mark.parametrize("lines", [[], ["torchvision>=3"], None])
def test_dist_info_without_torch(installed: dict[str, list[str]], lines: list[str]) -> None:
    installed["vllm-kernels"] = lines
    with pytest.raises(RuntimeError, match="names no torch requirement"):
        _metadata.torch_minimum()
