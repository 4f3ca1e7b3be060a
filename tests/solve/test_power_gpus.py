"""An AC922 node gets the GPU packages that a site has made with CUDA 12.4, the recipe's own."""

from __future__ import annotations

import pytest
import site_channel
from support import ROOT, plan

from vllm_conda.site.channels import Channels
from vllm_conda.site.examples import example_path
from vllm_conda.site.model import load_site, parse_site
from vllm_conda.site.preflight import NodeResult, check_site

PLATFORM = "linux-ppc64le"
JOBS = (f"{PLATFORM}-cpu-power9", f"{PLATFORM}-cuda-12.4-all", f"{PLATFORM}-cuda-12.4-sm70")


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Channels:
    """What the recipe renders for POWER9, and what a site offers beside it."""
    folder = tmp_path_factory.mktemp("power")
    own = site_channel.rendered_channel(folder / "own", plan(ROOT, JOBS).distinct())
    site = site_channel.Channel(folder / "site")
    gpu = ["__cuda", "cuda-version >=12.4,<13"]
    for build, number, extra in (("cpu_0", 0, []), ("cuda124_200", 200, gpu)):
        needs = ["python >=3.10", *extra]
        site.add(PLATFORM, "libtorch", "2.11.0", build, needs, (), number)
        site.add(PLATFORM, "pytorch", "2.11.0", build, [f"libtorch ==2.11.0 {build}"], (), number)
    site.add("noarch", "cuda-version", "12.4", "h0_0", (), ["__cuda >=12"])
    site.add(PLATFORM, "cuda-cudart", "12.4.127", "h0_0", gpu[1:])
    return Channels([own, site.write(), site_channel.library_channel(folder / "forge")])


def solve(channels: Channels, spec: str, archs: str = "[7.0]", cuda: str = "12.4") -> NodeResult:
    keys = f"platform: {PLATFORM}, glibc: 2.28, archspec: power9le"
    text = "schema: 1\nsite: test\nnodes:\n  a: {" + keys
    text += f", cuda: {cuda}, cuda_arch: {archs}}}\n" if cuda else "}\n"
    return check_site(parse_site(text, "site.yaml"), channels, [spec])[0]


def test_v100_nodes_get_the_gpu_build(channels: Channels) -> None:
    results = check_site(load_site(example_path("ac922")), channels, ["vllm-kernels"])
    builds = {result.name: result.answers[0].builds for result in results}
    assert builds["compute"]["vllm-kernels-cuda"].split()[1].startswith("cuda124_all_")
    assert "vllm-kernels-cuda" not in builds["login"]
    assert "vllm-kernels-cpu" in builds["login"]


def test_v100_slice(channels: Channels) -> None:
    slice_only = "vllm-kernels-cuda * *_sm70_*"
    found = solve(channels, slice_only).answers[0]
    assert found.refusal is None
    assert "_sm70_" in found.builds["vllm-kernels-cuda"]
    for archs, part in (
        ("[8.0]", "needs __cuda_arch < 8.0, the node's GPU has 8.0"),
        ("[6.0]", "needs __cuda_arch >= 7.0, the node's GPU has 6.0"),
    ):
        refusal = solve(channels, slice_only, archs).answers[0].refusal
        assert refusal is not None
        assert part in refusal.text


def test_node_without_a_gpu(channels: Channels) -> None:
    refusal = solve(channels, "vllm-kernels-cuda", cuda="").answers[0].refusal
    assert refusal is not None
    assert "the node has no GPU driver" in refusal.text
