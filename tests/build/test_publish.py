"""A channel is the old one or the new one, whenever its publisher is killed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import support

from vllm_conda.builder.store import Store
from vllm_conda.builder.workspace import Workspace
from vllm_conda.paths import private_folder

PLATFORM = "linux-64"
# Every call by which the publishing modules change a file.
CHANGES: tuple[tuple[Any, str], ...] = (
    (Path, "replace"), (Path, "unlink"), (Path, "mkdir"), (Path, "chmod"), (shutil, "copyfile"),
    (shutil, "copy2"), (shutil, "rmtree"), (os, "fsync"), (tempfile, "mkstemp"),
)  # fmt: skip


class SimulatedKill(BaseException):
    """From here on nothing changes a file any more: cleaning up is not for the dead."""


def _kill_at(patch: pytest.MonkeyPatch, point: int) -> list[int]:
    count = [0]

    def guarded(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            count[0] += 1
            if count[0] >= point:
                raise SimulatedKill
            return original(*args, **keywords)

        return call

    for owner, name in CHANGES:
        patch.setattr(owner, name, guarded(getattr(owner, name)))
    return count


def _packages(channel: Path) -> list[Path]:
    """Two packages of one generation: one that stays and one whose build is new."""
    return sorted((channel / PLATFORM).glob("*.conda"))


def _dummy(channel: Path, name: str, version: str, text: str) -> None:
    support.build_dummy(channel, name, version, {"run": []}, f"echo {text} > $PREFIX/{name}")


@pytest.fixture(scope="module")
def generations(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Path]]:
    folder = tmp_path_factory.mktemp("generations")
    for number, texts in (("1", ("same", "old")), ("2", ("same", "new"))):
        _dummy(folder / number, "stays", "1", texts[0])
        _dummy(folder / number, "moves", number, texts[1])
    return _packages(folder / "1"), _packages(folder / "2")


def _publish(folder: Path, cache: Path, packages: list[Path]) -> None:
    store = Store(folder, PLATFORM, Workspace(cache / "build", cache))
    for package in packages:
        store.publish(package, "job", package.name, "passed")
    store.settle({package.name: {"job"} for package in packages}, {"job"})


def _sums(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / PLATFORM).glob("*.conda")
    }


def _listed(folder: Path) -> dict[str, str]:
    text = (folder / PLATFORM / "repodata.json").read_text()
    return {name: row["sha256"] for name, row in json.loads(text)["packages.conda"].items()}


@pytest.mark.parametrize("other_disk", [False, True])
def test_death_at_every_change_of_a_file(
    generations: tuple[list[Path], list[Path]],
    tmp_path: Path,
    other_disk: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if other_disk:
        monkeypatch.setattr("vllm_conda.channel.files._same_disk", lambda one, other: False)
    old, new = generations
    saved, cache, output = tmp_path / "saved", tmp_path / "cache", tmp_path / "output"
    _publish(saved, cache, old)
    before = _listed(saved)
    states = set()
    # The one step in which the two differ comes often.
    for point in range(1, 400, 3 if other_disk else 1):
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(saved, output)
        shutil.rmtree(private_folder(output), ignore_errors=True)
        shutil.copytree(private_folder(saved), private_folder(output))
        with pytest.MonkeyPatch.context() as patch:
            _kill_at(patch, point)
            try:
                _publish(output, cache, new)
                finished = True
            except SimulatedKill:
                finished = False
        listed, sums = _listed(output), _sums(output)
        assert set(listed) in ({p.name for p in old}, {p.name for p in new})
        assert listed.items() <= sums.items()
        assert all(before[name] == sums[name] for name in before.keys() & sums.keys())
        states.add(frozenset(listed))
        if finished:
            break
        if point % 5 == 0:
            _publish(output, cache, new)
            assert set(_sums(output)) == set(_listed(output)) == {p.name for p in new}
            for left, right in ((output, saved), (private_folder(output), private_folder(saved))):
                assert {p.name for p in left.iterdir()} == {p.name for p in right.iterdir()}
    assert finished
    assert len(states) == 2
    assert point > 20, "the patch no longer sees the changes"


def test_a_published_name_keeps_its_bytes(
    generations: tuple[list[Path], list[Path]], tmp_path: Path
) -> None:
    old, new = generations
    output, cache = tmp_path / "output", tmp_path / "cache"
    _publish(output, cache, old)
    before = _sums(output)
    # Other content under a published name, as from a toolkit that packs in another way.
    other = tmp_path / old[0].name
    shutil.copy(new[0], other)
    _publish(output, cache, [other, *old[1:]])
    assert _sums(output) == before == _listed(output)


def test_a_damaged_file_is_replaced(
    generations: tuple[list[Path], list[Path]], tmp_path: Path
) -> None:
    old, _ = generations
    output, cache = tmp_path / "output", tmp_path / "cache"
    _publish(output, cache, old)
    before = _sums(output)
    (output / PLATFORM / old[0].name).write_bytes(b"damaged")
    _publish(output, cache, old)
    assert _sums(output) == before == _listed(output)
