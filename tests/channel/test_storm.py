"""Readers never see a broken channel, whatever happens to its publishers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, SLOW, SLOW_VARIABLE

long = pytest.mark.skipif(not SLOW, reason=f"takes half an hour; {SLOW_VARIABLE}=1 runs it")
STORM = Path(__file__).with_name("storm.py")


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no-locks"])
@pytest.mark.parametrize("publications", [12, pytest.param(1000, marks=long)])
def test_no_read_is_broken_and_no_package_lost(publications: int, locks: bool) -> None:
    printed = _storm("--publications", str(publications), *([] if locks else ["--no-locks"]))
    for counted in ("broken=0", "lost=0", "stale=0", "left=0"):
        assert counted in printed
    assert "reads=0" not in printed


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no-locks"])
def test_publishers_at_once_all_end_published(locks: bool) -> None:
    printed = _storm("--together", "6", *([] if locks else ["--no-locks"]))
    for counted in ("published=6", "lost=0", "stale=0"):
        assert counted in printed


def _storm(*words: str) -> str:
    """A process of its own: it forks before rattler has started threads."""
    done = subprocess.run(
        [sys.executable, str(STORM), *words],
        env={"PYTHONPATH": f"{ROOT / 'src'}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
