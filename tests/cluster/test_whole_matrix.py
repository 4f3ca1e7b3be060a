"""The whole CPU matrix through a real Slurm has the bits of a local build (./run test-slurm)."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_cluster
import support

from vllm_conda.jobs import select
from vllm_conda.targets import load_targets

JOBS = select(load_targets(support.ROOT), devices=["cpu"])
OUTPUT = support.ROOT / "output"
ABSENT = [job.platform for job in JOBS if not (OUTPUT / job.platform).is_dir()]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(slurm_cluster.missing()), reason=slurm_cluster.missing()),
    pytest.mark.skipif(bool(ABSENT), reason="output/ lacks platforms: ./run build --platform all"),
]


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[slurm_cluster.Cluster]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    cluster = slurm_cluster.Cluster(tmp_path / "cluster", os.cpu_count() or 1, memory)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def sums(output: Path) -> dict[str, str]:
    """SHA-256 of the packages of the CPU jobs' platforms, by platform and file."""
    return {
        f"{platform}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for platform in {job.platform for job in JOBS}
        for path in (output / platform).glob("*.conda")
    }


def test_slurm_gives_the_bits_of_a_local_build(
    slurm: slurm_cluster.Cluster, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    command = [sys.executable, "-m", "vllm_conda", "build", "--platform", "all", "--on", "slurm"]
    command += ["--root", str(support.ROOT), "--output", str(output), "--jobs", "1"]
    environment = {**os.environ, **slurm.environment}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    for job in JOBS:
        assert f"submit   {job.name}: task " in done.stderr
    found = sums(output)
    # Each job makes its kernels; core and metapackage are those of the platform.
    assert len(found) >= len(JOBS) + 2 * len({job.platform for job in JOBS})
    here = sums(OUTPUT)
    assert {name: here.get(name) for name in found} == found
