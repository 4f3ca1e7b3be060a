"""Tests of the runtime package. Those that import it need PyTorch and built libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
Python = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def python() -> Python:
    """Run a Python command line in a fresh process; ``**environment`` adds variables."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment},
        )

    return run


@pytest.fixture
def fake_library(tmp_path: Path) -> Callable[..., Path]:
    """Compile C code into ``lib<name>.so`` in a folder of its own."""

    def build(name: str, code: str, *flags: str) -> Path:
        path = tmp_path / "lib" / f"lib{name}.so"
        path.parent.mkdir(exist_ok=True)
        command = [
            os.environ.get("CC", "gcc"),
            "-shared",
            "-fPIC",
            "-x",
            "c",
            "-",
            "-o",
            str(path),
            *flags,
        ]
        subprocess.run(command, input=code, text=True, check=True)
        return path

    return build
