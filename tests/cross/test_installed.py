"""A small part of what ./run test-cross does: other platforms' packages call a kernel, emulated.

Skipped where output/ holds no package of the platform: `./run build-cross` makes them.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from vllm_conda import emulate, platforms
from vllm_conda.builder.workspace import workspace_for
from vllm_conda.progress import Reporter
from vllm_conda.targets import load_targets

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = Path(os.environ.get("VLLM_CONDA_TEST_OUTPUT") or ROOT / "output")
TARGETS = load_targets(ROOT)


def built(platform: str) -> bool:
    return any((OUTPUT / platform).glob("vllm-kernels-cpu-*.conda"))


@pytest.mark.parametrize(
    "platform",
    [
        pytest.param(
            name, marks=pytest.mark.skipif(not built(name), reason=f"no {name} in output/")
        )
        for name in platforms.cross()
    ],
)
def test_the_installed_package_computes_on_every_tier(platform: str) -> None:
    emulated = emulate.install(
        platform, OUTPUT.resolve().as_uri(), TARGETS, workspace_for(ROOT), Reporter()
    )
    ran = []
    for cpu, tiers in emulate.tiers_by_cpu(TARGETS, platform):
        for tier in tiers:
            program = [
                str(emulated.prefix / "bin" / "python"),
                str(ROOT / "tests/cross/check_installed.py"),
                str(emulated.prefix),
                tier,
            ]
            done = subprocess.run(emulated.command(cpu, program), capture_output=True, text=True)
            assert done.returncode == 0, f"{tier} on {cpu}: {done.stdout}{done.stderr}"
            assert f"tier {tier}," in done.stdout
            ran.append(tier)
    family = TARGETS.platforms[platform].family
    assert set(ran) == set(TARGETS.tiers[family])


def test_a_tier_beyond_the_cpu_is_refused_in_words() -> None:
    platform = next((name for name in platforms.cross() if built(name)), None)
    if platform is None:
        pytest.skip("no package of another platform in output/")
    emulated = emulate.install(
        platform, OUTPUT.resolve().as_uri(), TARGETS, workspace_for(ROOT), Reporter()
    )
    (lowest, _), *_, (_, highest) = emulate.tiers_by_cpu(TARGETS, platform)
    program = [
        str(emulated.prefix / "bin" / "python"),
        str(ROOT / "tests/cross/check_installed.py"),
        str(emulated.prefix),
        highest[-1],
    ]
    done = subprocess.run(emulated.command(lowest, program), capture_output=True, text=True)
    assert done.returncode == 1
    assert f"tier {highest[-1]} needs" in done.stderr
