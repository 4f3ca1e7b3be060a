"""Every command in every odd circumstance: its answer, or one sentence and a documented code.

The slow ring (VLLM_CONDA_TEST_SLOW=1) tries all pairs, the normal one a few of each command.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from answers import LONGEST
from circumstances import Case, run
from commands import COMMANDS, WORDS, World
from conditions import CONDITIONS
from support import SLOW

from vllm_conda import errors

SECONDS = 180.0
# Commands that take seconds; in the normal ring the other tests of the kind are enough.
LONG = {"build", "engine add", "engine build", "engine test"}
SIGNALLED = {128 + 13, 128 + 15, 128 + 1, 130}
DOCUMENTED = {0, *SIGNALLED, *(kind.exit_code for kind in errors.VllmError.__subclasses__())}
UNSEEN = re.compile(r"Traceback|panicked|Exception ignored|Fatal Python|core dumped|Segmentation")


def _pairs() -> list[tuple[str, str]]:
    if SLOW:
        return list(itertools.product(COMMANDS, CONDITIONS))
    quick = [name for name in COMMANDS if name not in LONG]
    return list(zip(quick, itertools.cycle(list(CONDITIONS)[:: len(CONDITIONS) // len(quick)])))


@pytest.fixture(scope="module")
def world(dummies: str, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world") / "template", dummies)


@pytest.fixture(scope="module")
def usual(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """The exit codes of the commands without any condition, found when they are asked for."""
    folder = tmp_path_factory.mktemp("usual")

    class Usual(dict[str, int]):
        def __missing__(self, name: str) -> int:
            code = _try(world, folder / name.replace(" ", "-"), name, None).returncode
            self[name] = code
            return code

    return Usual()


def _try(
    world: World, folder: Path, name: str, condition: str | None
) -> subprocess.CompletedProcess[str]:
    place = world.copy(folder)
    (place / "tmp").mkdir()
    case = Case(place, {**os.environ, **world.environment(place)}, cwd=place)
    try:
        if condition is not None:
            CONDITIONS[condition].apply(case)
        words = [sys.executable, "-m", "vllm_conda", *world.words(name, case.world)]
        done = run(case, words, SECONDS)
        temporary = Path(case.environment.get("TMPDIR") or place / "tmp")
        if temporary.is_dir() and temporary.is_absolute():
            assert {path.name for path in temporary.iterdir()} <= {"filler"}
        return done
    finally:
        for undo in reversed(case.undo):
            undo()


def check(done: subprocess.CompletedProcess[str], heard: bool) -> None:
    """A documented code, and a sentence where it is not 0."""
    said = done.stderr
    assert done.returncode in DOCUMENTED, (done.returncode, said)
    assert not UNSEEN.search(said), said
    if done.returncode in {0, *SIGNALLED} or not heard:
        return
    problems = [line for line in said.splitlines() if line.lower().startswith("error: ")]
    assert problems, said
    assert max(map(len, problems)) <= LONGEST, problems


@pytest.mark.parametrize(("name", "condition"), _pairs())
def test_condition(
    world: World, usual: dict[str, int], tmp_path: Path, name: str, condition: str
) -> None:
    wanted = CONDITIONS[condition]
    if wanted.root and os.geteuid() != 0:
        pytest.skip("only root can make it")
    done = _try(world, tmp_path / "world", name, condition)
    shutil.rmtree(tmp_path, ignore_errors=True)
    check(done, heard="std" not in condition and "streams" not in condition)
    if wanted.works:
        assert done.returncode == usual[name], done.stderr


def test_every_command_is_tried() -> None:
    """Words for a command that has gone would try nothing."""
    assert set(WORDS) <= set(COMMANDS)
    assert {name for name, _ in _pairs()} >= set(COMMANDS) - LONG
