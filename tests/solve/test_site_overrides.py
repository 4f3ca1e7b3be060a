"""Lines that make a login node's solve right for compute nodes, and warnings where they lie."""

from __future__ import annotations

import pytest
from site_cases import GPU, node, site_of

from vllm_conda import solve as solving
from vllm_conda.site.channels import Channels
from vllm_conda.site.examples import example_path
from vllm_conda.site.model import Site, load_site
from vllm_conda.site.overrides import Advice, advise
from vllm_conda.site.preflight import check_site, exact


def advice_for(channels: Channels, site: Site, *specs: str) -> list[Advice]:
    return advise(check_site(site, channels, specs), channels)


def test_override_line_for_a_login_node(channels: Channels) -> None:
    advice = advice_for(channels, load_site(example_path("leonardo")))
    assert {a.compute: a.line for a in advice} == {
        ("booster",): "CONDA_OVERRIDE_CUDA=12.2 CONDA_OVERRIDE_CUDA_ARCH=8.0",
        ("dcgp",): "",
    }
    assert all(a.verified for a in advice)
    assert "one environment each for booster; dcgp" in advice[-1].warnings[0]


def test_login_node_with_the_same_gpu_needs_no_override(channels: Channels) -> None:
    (advice,) = advice_for(channels, load_site(example_path("jupiter")))
    assert (advice.line, advice.warnings) == ("", ())


def test_what_the_login_node_cannot_run_is_said(channels: Channels) -> None:
    site = load_site(example_path("h200"))
    (advice,) = advice_for(channels, site, "vllm-kernels-cpu", "vllm-kernels")
    assert advice.line == (
        "CONDA_OVERRIDE_GLIBC=2.35 CONDA_OVERRIDE_ARCHSPEC=sapphirerapids "
        "CONDA_OVERRIDE_CUDA=13.0 CONDA_OVERRIDE_CUDA_ARCH=9.0"
    )
    assert advice.verified
    assert "does not run on login itself" in advice.warnings[0]
    assert "x86_64 level 4, login's CPU zen3 is level 3" in advice.warnings[0]


def test_override_line_for_an_amd_gpu(channels: Channels) -> None:
    (advice,) = advice_for(channels, load_site(example_path("mi300x")))
    assert advice.line == "CONDA_OVERRIDE_AMDGPU=0 CONDA_OVERRIDE_AMDGPU_ARCH=9.4.2"
    assert advice.verified


def test_mixed_node_names_the_lowest_gpu(channels: Channels) -> None:
    (advice,) = advice_for(channels, load_site(example_path("mixed")))
    assert advice.line == "CONDA_OVERRIDE_CUDA=12.8 CONDA_OVERRIDE_CUDA_ARCH=8.9"
    assert "gpu is mixed (8.9, 9.0)" in advice.warnings[0]


def test_login_node_of_another_platform(channels: Channels) -> None:
    nodes = node(role="login") + "\n  b: {platform: linux-aarch64, glibc: 2.34, cuda: 13.1, "
    nodes += "archspec: neoverse_v2, cuda_arch: [9.0]}"
    (advice,) = advice_for(channels, site_of(nodes), "vllm-kernels")
    assert advice.line == (
        "CONDA_SUBDIR=linux-aarch64 CONDA_OVERRIDE_ARCHSPEC=neoverse_v2 "
        "CONDA_OVERRIDE_CUDA=13.1 CONDA_OVERRIDE_CUDA_ARCH=9.0"
    )
    assert advice.verified
    assert "a is linux-64, b linux-aarch64" in advice.warnings[0]


def test_login_node_with_a_gpu_hides_it_for_cpu_nodes(channels: Channels) -> None:
    nodes = node(role="login", **GPU) + "\n" + node().replace("  a:", "  b:")
    (advice,) = advice_for(channels, site_of(nodes), "vllm-kernels")
    assert advice.line == "CONDA_OVERRIDE_CUDA="
    assert advice.verified


def test_cpu_that_archspec_does_not_know(channels: Channels) -> None:
    """The login node's is overridden; the compute node's name would help no client."""
    nodes = node(role="login", archspec="zen9") + "\n" + node().replace("  a:", "  b:")
    nodes += "\n" + node(archspec="zen9", **GPU).replace("  a:", "  c:")
    cpu, gpu = advice_for(channels, site_of(nodes), "vllm-kernels")
    assert (cpu.line, cpu.verified) == ("CONDA_OVERRIDE_ARCHSPEC=zen4", True)
    assert "it needs a CPU level, and archspec knows no CPU 'zen9'" in cpu.warnings[0]
    assert gpu.line == "CONDA_OVERRIDE_CUDA=12.8 CONDA_OVERRIDE_CUDA_ARCH=9.0"
    assert gpu.verified


@pytest.mark.parametrize(("example", "compute"), [("h200", "server"), ("mixed", "gpu")])
def test_the_variables_do_what_they_say(
    channels: Channels,
    addresses: list[str],
    monkeypatch: pytest.MonkeyPatch,
    example: str,
    compute: str,
) -> None:
    """A client on this very machine, as a login node, solves to the compute node's packages."""
    results = {r.name: r for r in check_site(load_site(example_path(example)), channels)}
    (advice,) = advise(list(results.values()), channels)
    node = results[compute].node
    everything = {
        "CONDA_OVERRIDE_GLIBC": node.glibc,
        "CONDA_OVERRIDE_ARCHSPEC": node.archspec,
        **advice.variables,
    }
    for name, value in everything.items():
        monkeypatch.setenv(name, value)
    records = solving.solve_specs(
        addresses, ["vllm-kernels"], "linux-64", solving.virtual_packages()
    )
    assert sorted(exact(records)) == sorted(exact(results[compute].answers[0].records))
