"""What a package says of its sources: time and commit, with a mark where they differ."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import git

from vllm_conda.builder.commit import EPOCH_VARIABLE, Origin, origin, source_commit
from vllm_conda.errors import ConfigError

FIRST, SECOND = 1_700_000_000, 1_700_000_060


@pytest.fixture(autouse=True)
def _no_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(EPOCH_VARIABLE, raising=False)


def commit(root: Path, file: str, text: str, when: int = FIRST) -> str:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(text)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", file, when=when)
    return git(root, "rev-parse", "HEAD")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout of one commit: sources, table and a list of what git ignores."""
    git(tmp_path, "init", "-q")
    for name in ("targets.toml", "LICENSE"):
        (tmp_path / name).write_text("x\n")
    (tmp_path / ".gitignore").write_text("__pycache__/\n")
    commit(tmp_path, "csrc/a.cc", "a\n")
    return tmp_path


def sources(root: Path) -> list[Path]:
    return [root / "csrc", root / "LICENSE"]


def test_of_the_last_commit_to_the_sources_alone(root: Path) -> None:
    first = git(root, "rev-parse", "HEAD")
    assert origin(root, sources(root)) == Origin(FIRST, first)
    commit(root, "docs/a.md", "a\n", SECOND)
    assert origin(root, sources(root)) == Origin(FIRST, first)
    second = commit(root, "csrc/b.cc", "b\n", SECOND)
    assert origin(root, sources(root)) == Origin(SECOND, second)


@pytest.mark.parametrize("file", ["csrc/a.cc", "csrc/new.cc", "csrc/deep/new.cc", "LICENSE"])
def test_changed_and_new_sources_are_marked(root: Path, file: str) -> None:
    head = git(root, "rev-parse", "HEAD")
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_text("changed\n")
    assert origin(root, sources(root)) == Origin(FIRST, f"{head}+")
    assert source_commit(root, sources(root)) == f"{head}+"


@pytest.mark.parametrize("file", ["notes.txt", "csrc/__pycache__/a.pyc"])
def test_what_is_not_built_marks_nothing(root: Path, file: str) -> None:
    head = git(root, "rev-parse", "HEAD")
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_text("new\n")
    assert origin(root, sources(root)) == Origin(FIRST, head)
    assert source_commit(root, sources(root)) == head


def test_a_changed_file_that_is_no_source_marks_the_commit_alone(root: Path) -> None:
    head = git(root, "rev-parse", "HEAD")
    (root / "targets.toml").write_text("changed\n")
    assert origin(root, sources(root)).revision == head
    assert source_commit(root, sources(root)) == f"{head}+"


def test_outside_of_git(tmp_path: Path) -> None:
    table = tmp_path / "targets.toml"
    table.write_text("x\n")
    os.utime(table, (FIRST, FIRST))
    assert origin(tmp_path, [table]) == Origin(FIRST, "")
    assert source_commit(tmp_path, [table]) == ""


def test_the_variable_goes_first(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EPOCH_VARIABLE, "7")
    assert origin(root, sources(root)) == Origin(7, git(root, "rev-parse", "HEAD"))
    monkeypatch.setenv(EPOCH_VARIABLE, "now")
    with pytest.raises(ConfigError, match="SOURCE_DATE_EPOCH is 'now', and no number"):
        origin(root, sources(root))
