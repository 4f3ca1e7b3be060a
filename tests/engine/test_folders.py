"""Where an engine keeps what it compiles, with a home that can be written and without."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_kernels_plugin import folders

NAMES = [one.variable for one in folders.KEPT]
logger = logging.getLogger("test")
SOURCES = Path(folders.__file__).parents[1]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, in an environment with all that keeps something and no variable of theirs."""
    for name in (*NAMES, *(one.base for one in folders.KEPT if one.base)):
        # Set first, so that what the plugin sets is undone.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    packages = tmp_path / "site-packages"
    for one in folders.KEPT:
        (packages / one.package).mkdir(parents=True)
        (packages / one.package / "__init__.py").touch()
        monkeypatch.delitem(sys.modules, one.package, raising=False)
    monkeypatch.syspath_prepend(str(packages))
    made = tmp_path / "home"
    made.mkdir()
    monkeypatch.setenv("HOME", str(made))
    return made


@pytest.fixture
def read_only(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tests may run as root, to whom every folder is writable."""
    access: Callable[..., bool] = os.access

    def refuse(path: Path, mode: int) -> bool:
        inside = home in (Path(path), *Path(path).parents)
        return not (inside and mode & os.W_OK) and access(path, mode)

    monkeypatch.setattr(os, "access", refuse)
    return home


def given(caplog: pytest.LogCaptureFixture) -> dict[str, str]:
    caplog.clear()
    with caplog.at_level(logging.INFO):
        folders.give(logger)
    return {name: os.environ[name] for name in NAMES if name in os.environ}


def test_a_home_that_can_be_written(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also where a folder below it is there already."""
    assert given(caplog) == {}
    (home / ".triton").mkdir()
    assert given(caplog) == {}
    assert not caplog.messages


@pytest.mark.usefixtures("read_only")
def test_a_home_that_is_read_only(caplog: pytest.LogCaptureFixture) -> None:
    found = given(caplog)
    assert [*found] == NAMES
    assert all(Path(folder).is_dir() for folder in found.values())
    words = ", ".join(f"{name}={folder}" for name, folder in found.items())
    assert caplog.messages == [f"the home cannot be written; until this process ends: {words}"]
    # A process that was started meanwhile has them already.
    assert given(caplog) == found
    assert not caplog.messages


@pytest.mark.parametrize("text", ["a user without a home", "a folder that cannot be entered"])
def test_no_home(
    home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    def fail(*_: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    def forbid(*_: object) -> bool:
        raise PermissionError(13, "Permission denied", str(home))

    if text == "a user without a home":
        monkeypatch.setattr(Path, "home", fail)
    else:
        monkeypatch.setattr(Path, "exists", forbid)
    assert [*given(caplog)] == NAMES


def test_a_file_is_no_home(
    home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = home / "file"
    file.touch()
    monkeypatch.setenv("HOME", str(file))
    assert [*given(caplog)] == NAMES


def test_what_the_user_has_set_stays(
    read_only: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of their own, and a variable that moves several."""
    elsewhere = read_only.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(read_only / "triton"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(elsewhere))
    found = given(caplog)
    assert found.pop("TRITON_CACHE_DIR") == str(read_only / "triton")
    assert [*found] == ["FLASHINFER_WORKSPACE_BASE"]
    assert caplog.messages[0].count("=") == 1


@pytest.mark.usefixtures("read_only")
def test_packages_that_are_not_there(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_: str) -> None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", none)
    assert [*given(caplog)] == ["VLLM_CACHE_ROOT"]


def test_the_folder_goes_with_the_process(home: Path) -> None:
    """With the process that made it, not with one that was forked from it."""
    code = (
        "import logging, os, sys\n"
        "from vllm_kernels_plugin import folders\n"
        "folders.give(logging.getLogger())\n"
        "if os.fork() == 0: sys.exit()\n"
        "os.wait()\n"
        "print(os.environ['VLLM_CACHE_ROOT'], os.path.isdir(os.environ['VLLM_CACHE_ROOT']))\n"
    )
    kept = {name: value for name, value in os.environ.items() if name not in NAMES}
    variables = {**kept, "HOME": "/dev/null", "PYTHONPATH": str(SOURCES)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True
    )
    folder, was_there = done.stdout.split()
    assert was_there == "True"
    assert not Path(folder).exists()
    assert not Path(folder).parent.exists()
