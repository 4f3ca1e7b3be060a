"""Channels that the tests of node types solve from."""

from __future__ import annotations

import pytest
import site_channel
from support import ROOT, plan

from vllm_conda import platforms
from vllm_conda.jobs import jobs
from vllm_conda.site import assumed
from vllm_conda.site.channels import Channels
from vllm_conda.targets import load_targets


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("channels")
    own = site_channel.own_channel(folder / "own")
    return [own, site_channel.library_channel(folder / "libraries")]


@pytest.fixture(scope="module")
def channels(addresses: list[str]) -> Channels:
    return Channels(addresses)


@pytest.fixture(scope="session")
def every_job(tmp_path_factory: pytest.TempPathFactory) -> Channels:
    """What all jobs make, as rendered, and the mirror of conda-forge that solving assumes."""
    folder = tmp_path_factory.mktemp("every-job")
    own = site_channel.Channel(folder / "own")
    for output in plan(ROOT, [job.name for job in jobs(load_targets(ROOT))]).distinct():
        platform = platforms.table()[output.job.platform]
        # What the build adds: the exports of sysroot, compiler and level package.
        exports = [f"__glibc >={platform.glibc},<3.0.a0", f"libstdcxx >={platform.libstdcxx}"]
        if output.name == "vllm-kernels-cpu":
            exports.append(f"_{platform.family}-microarch-level >={output.job.level}")
        own.add(
            output.job.platform, output.name, output.version, output.build_string,
            [*output.run, *(exports if output.name != "vllm-kernels" else [])], output.constraints,
            output.build_number,
        )  # fmt: skip
    return Channels([own.write(), assumed.ensure_channel(folder / "cache")])
