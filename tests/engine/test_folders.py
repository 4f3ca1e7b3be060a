"""Where an engine keeps what it compiles, with a home that can be written and without."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_kernels_plugin import folders
from vllm_kernels_plugin.errors import PluginError

NAMES = [one.variable for one in folders.KEPT]
logger = logging.getLogger("test")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, in an environment with all that keeps something and no variable of theirs.

    The temporary folder is beside it.
    """
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
    made, temporary = tmp_path / "home", tmp_path / "tmp"
    made.mkdir()
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
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
    assert caplog.messages == [f"the home cannot be written: {words}"]
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


def own(home: Path) -> Path:
    return home.parent / "tmp" / f"vllm-kernels-{os.geteuid()}"


def test_one_folder_is_the_user_s_alone_and_is_found_again(
    read_only: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0)
    try:
        found = given(caplog)
    finally:
        os.umask(before)
    assert {Path(folder).parent for folder in found.values()} == {own(read_only)}
    assert own(read_only).stat().st_mode & 0o777 == 0o700
    kept = Path(found["TRITON_CACHE_DIR"]) / "kernel"
    kept.touch()
    for name in NAMES:
        monkeypatch.delenv(name)
    assert given(caplog) == found
    assert kept.exists()
    assert [*(read_only.parent / "tmp").iterdir()] == [own(read_only)]


@pytest.mark.parametrize("text", ["others may write", "a link", "a file", "somebody else's"])
def test_a_folder_in_which_others_could_put_code_is_refused(
    read_only: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    folder = own(read_only)
    if text == "a link":
        (read_only.parent / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(read_only.parent / "elsewhere")
    elif text == "a file":
        folder.touch(mode=0o700)
    else:
        folder.mkdir(mode=0o700)
    if text == "others may write":
        folder.chmod(0o770)
    elif text == "somebody else's":
        user = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: user)
        folder.rename(own(read_only))
    with pytest.raises(PluginError, match=r"the home cannot be written, and .* is not a folder"):
        given(caplog)
    assert not set(NAMES) & set(os.environ)
