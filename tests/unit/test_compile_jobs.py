"""Compile jobs: what affinity and the control group leave of the machine counts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("cmake"), reason="cmake is not installed")


def jobs(group: Path, *prefix: str) -> tuple[int, str]:
    command = [
        *prefix, "cmake", "-DMAX_JOBS=", "-DVLLM_COMPILER_CACHE=OFF", f"-Dvllm_cgroup={group}",
        "-P", str(ROOT / "cmake" / "Jobs.cmake"),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "64"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    match = re.search(r"(\d+) compile jobs \((.*)\);", done.stdout)
    assert match, done.stdout
    return int(match[1]), match[2]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"memory.max": "1610612736\n", "cpu.max": "max 100000\n"}, "1536 MiB"),
        ({"memory/memory.limit_in_bytes": "1610612736\n"}, "1536 MiB"),
        ({"memory.max": "max\n", "cpu.max": "50000 100000\n"}, "1 cores"),
        (
            {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            "1 cores",
        ),
    ],
)
def test_control_group(tmp_path: Path, files: dict[str, str], reason: str) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found, said = jobs(tmp_path)
    assert found == 1
    assert reason in said or said == "1 cores"  # a machine of one core


def test_no_limit(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert jobs(tmp_path)[0] <= len(os.sched_getaffinity(0))


@pytest.mark.skipif(not shutil.which("taskset"), reason="taskset is not installed")
def test_affinity(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    assert jobs(tmp_path, "taskset", "-c", str(core))[0] == 1
