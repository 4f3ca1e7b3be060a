"""The cross driver calls every function of the CPU families, and knows every dtype."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import abi
import pytest
from support import ROOT

from vllm_conda.emulate import driver_header
from vllm_conda.targets import load_targets


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler on PATH")
def test_it_converts_the_arguments_of_every_function(tmp_path: Path) -> None:
    families = load_targets(ROOT).families
    (tmp_path / "cpu_functions.h").write_text(driver_header(ROOT, families))
    source = ROOT / "tests/cross/driver.cc"
    folders = [f"-I{ROOT / 'csrc'}", f"-I{tmp_path}"]
    command = ["c++", "-std=c++17", "-fsyntax-only", "-Wall", "-Werror", *folders, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_dtype_codes_are_those_of_the_header() -> None:
    codes = abi.dtype_codes()
    assert sorted(codes.values()) == list(range(len(codes)))
