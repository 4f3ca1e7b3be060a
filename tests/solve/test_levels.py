"""Which package a CPU gets: level 4 where it runs, else level 3, below it a refusal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import support
from support import VERSION

SCRIPT = Path(__file__).with_name("solve_profile.py")
V4 = ["sapphirerapids", "icelake", "zen4", "skylake_avx512", "x86_64_v4"]
V3 = ["haswell", "zen2", "x86_64_v3"]
V2 = ["nehalem", "x86_64_v2", "x86_64"]


@pytest.fixture(scope="module")
def dummy_channels(tmp_path_factory: pytest.TempPathFactory, dummies: str) -> list[str]:
    """The output of a build with dummy compilers, and their channel."""
    root = support.checkout(tmp_path_factory.mktemp("solve") / "checkout")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CONDA_CACHE", str(root.parent / "cache"))
        patch.setenv("RATTLER_CACHE_DIR", str(root.parent / "cache" / "rattler"))
        patch.setenv("PYTHONPATH", str(support.ROOT / "src"))
        patch.setenv("CONDA_OVERRIDE_ARCHSPEC", "x86_64_v4")
        report = support.build(root, (dummies,))
    return [report.channel, dummies]


@pytest.fixture(scope="module")
def real_channels() -> list[str]:
    """The checkout's own output and the channels that it was built against."""
    output = support.ROOT / "output"
    if not (output / "linux-64" / "repodata.json").is_file():
        pytest.skip("no output/ here: run ./run build first")
    state = json.loads((support.ROOT / "output.build" / "build-state.json").read_text())
    return [output.as_uri(), *state["channels"]]


def solve(channels: list[str], archspec: str, *specs: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(SCRIPT), "--archspec", archspec]
    for channel in channels:
        words += ["--channel", channel]
    for spec in specs or ("vllm-kernels-cpu",):
        words += ["--spec", spec]
    # Isolated: the script must not see the project's code.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment)


def chosen(channels: list[str], archspec: str, *specs: str) -> dict[str, dict[str, Any]]:
    done = solve(channels, archspec, *specs)
    assert done.returncode == 0, done.stdout + done.stderr
    packages: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return packages


def check_levels(channels: list[str]) -> None:
    for names, level in ((V4, 4), (V3, 3)):
        for archspec in names:
            packages = chosen(channels, archspec)
            assert packages["vllm-kernels-cpu"]["build_number"] // 100 == level, archspec
            assert f"_x86_64-microarch-level >={level}" in packages["vllm-kernels-cpu"]["depends"]
            core = packages["vllm-core"]
            pin = f"vllm-core =={core['version']} {core['build']}"
            assert pin in packages["vllm-kernels-cpu"]["depends"]
    for archspec in V2:
        done = solve(channels, archspec)
        assert done.returncode == 1, f"{archspec}: {done.stdout}"
        assert "__archspec" in done.stdout or "microarch-level" in done.stdout


def test_levels_of_the_recipe(dummy_channels: list[str]) -> None:
    check_levels(dummy_channels)


def test_level_can_be_chosen_by_hand(dummy_channels: list[str]) -> None:
    packages = chosen(dummy_channels, "sapphirerapids", f"vllm-kernels-cpu {VERSION}.* *_300")
    assert packages["vllm-kernels-cpu"]["build_number"] // 100 == 3


def test_metapackage_brings_the_cpu_package(dummy_channels: list[str]) -> None:
    assert {"vllm-kernels-cpu", "vllm-core"} <= set(chosen(dummy_channels, "zen4", "vllm-kernels"))


def test_older_glibc_is_refused(dummy_channels: list[str]) -> None:
    words = [sys.executable, str(SCRIPT), "--archspec", "zen4", "--glibc", "2.12"]
    words += ["--spec", "vllm-kernels-cpu"]
    for channel in dummy_channels:
        words += ["--channel", channel]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "__glibc" in done.stdout


@pytest.mark.slow
def test_levels_of_the_built_channel(real_channels: list[str]) -> None:
    check_levels(real_channels)
