"""`pip install .` says what is missing before it downloads anything."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from support import ROOT, module_at

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that pyproject.toml names, with a scikit-build-core that asks for nothing."""
    system = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    module = module_at(ROOT / system["backend-path"][0] / f"{system['build-backend']}.py")
    core, build = ModuleType("scikit_build_core"), ModuleType("scikit_build_core.build")
    for name in ("get_requires_for_build_wheel", "get_requires_for_build_editable"):
        setattr(build, name, lambda settings=None: ["ninja"])
    build.build_wheel = lambda *arguments: "wheel"  # type: ignore[attr-defined]
    core.build = build  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "scikit_build_core", core)
    monkeypatch.setitem(sys.modules, "scikit_build_core.build", build)
    for name in ("CMAKE_PREFIX_PATH", "CPATH", "CPLUS_INCLUDE_PATH", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    return module


def python(folder: Path, answer: str) -> str:
    """A Python that says what it is asked for."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n[ \"$1\" = -E ] && echo '{answer}'\n")
    file.chmod(0o755)
    return str(file)


HOOKS = ("get_requires_for_build_wheel", "get_requires_for_build_editable")


@pytest.mark.parametrize("hook", HOOKS)
def test_pytorch_comes_first(
    backend: ModuleType, hook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", python(tmp_path, f"{tmp_path} False"))
    with pytest.raises(SystemExit, match="run `pip install torch` first"):
        getattr(backend, hook)()


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("variable", ["", "CMAKE_PREFIX_PATH", "CPLUS_INCLUDE_PATH"])
def test_highway_is_looked_for_where_cmake_does(
    backend: ModuleType, hook: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", python(tmp_path, f"{tmp_path}/a b True"))
    monkeypatch.setattr(backend, "_includes", _without_the_system(backend))
    with pytest.raises(SystemExit, match="Highway's headers"):
        getattr(backend, hook)()
    place = tmp_path / ("other" if variable else "a b")
    headers = place if variable == "CPLUS_INCLUDE_PATH" else place / "include"
    (headers / "hwy").mkdir(parents=True)
    (headers / "hwy/highway.h").touch()
    if variable:
        monkeypatch.setenv(variable, str(place))
    assert getattr(backend, hook)() == ["ninja"]


def _without_the_system(backend: ModuleType) -> object:
    real = backend._includes
    return lambda prefix: [one for one in real(prefix) if not one.is_relative_to("/usr")]


def test_everything_else_is_scikit_build_core(backend: ModuleType) -> None:
    assert backend.build_wheel("folder") == "wheel"
