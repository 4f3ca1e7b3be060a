"""Node types of a site: the right build, or the one property that is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import site_channel
from site_cases import GPU, node, site_of
from support import VERSION

from vllm_conda.site.channels import Channels
from vllm_conda.site.examples import example_names, example_path
from vllm_conda.site.model import load_site
from vllm_conda.site.preflight import NodeResult, check_site, exact

V4 = f"{VERSION} h4_400"
V3 = f"{VERSION} h3_300"
CUDA12 = f"{VERSION} cuda124_all_h0_112400"
CUDA13 = f"{VERSION} cuda130_all_h0_113000"

# (example, node type) -> package that it must get, build of it
SERVED = {
    ("ac922", "login"): ("vllm-kernels-cpu", f"{VERSION} h9_900"),
    ("ac922", "compute"): ("vllm-kernels-cpu", f"{VERSION} h9_900"),
    ("avx2", "epyc"): ("vllm-kernels-cpu", V3),
    ("frontier", "login"): ("vllm-kernels-cpu", V3),
    ("frontier", "compute"): ("vllm-kernels-cpu", V3),
    ("graviton", "graviton2"): ("vllm-kernels-cpu", f"{VERSION} h1_100"),
    ("graviton", "graviton3"): ("vllm-kernels-cpu", f"{VERSION} h1_100"),
    ("graviton", "graviton4"): ("vllm-kernels-cpu", f"{VERSION} h1_100"),
    ("h200", "login"): ("vllm-kernels-cpu", V3),
    ("h200", "server"): ("vllm-kernels-cuda", CUDA13),
    ("jupiter", "login"): ("vllm-kernels-cuda", CUDA13),
    ("jupiter", "booster"): ("vllm-kernels-cuda", CUDA13),
    ("leonardo", "login"): ("vllm-kernels-cpu", V4),
    ("leonardo", "booster"): ("vllm-kernels-cuda", CUDA12),
    ("leonardo", "dcgp"): ("vllm-kernels-cpu", V4),
    ("mi300x", "server"): ("vllm-kernels-rocm", f"{VERSION} hip6_h0_5000"),
    ("mixed", "login"): ("vllm-kernels-cpu", V4),
    ("mixed", "gpu"): ("vllm-kernels-cuda", CUDA12),
    ("workstation", "workstation"): ("vllm-kernels-cuda", CUDA13),
}
NO_AMD_GPU = (
    "needs __amdgpu, the node has no AMD GPU; "
    "needs a GPU of gfx90a or gfx942 or gfx1100 or gfx1201 (__amdgpu_arch), the node has none"
)
REFUSED = {
    ("avx2", "centos7"): "needs glibc >= 2.28, the node has 2.17",
    ("mi300x", "login"): NO_AMD_GPU,
}


def one(channels: Channels, specs: list[str], **keys: str) -> NodeResult:
    return check_site(site_of(node(**keys)), channels, specs)[0]


def refusal(channels: Channels, specs: list[str], **keys: str) -> str:
    found = one(channels, specs, **keys).answers[0].refusal
    assert found is not None
    return found.text


def test_every_node_of_every_example_is_expected() -> None:
    nodes = {
        (name, node) for name in example_names() for node in load_site(example_path(name)).nodes
    }
    assert nodes == {*SERVED, *REFUSED}


@pytest.mark.parametrize("example", example_names())
def test_examples(channels: Channels, example: str) -> None:
    for result in check_site(load_site(example_path(example)), channels):
        answer = result.answers[0]
        if (example, result.name) in REFUSED:
            assert answer.refusal is not None
            assert answer.refusal.text == REFUSED[example, result.name]
            assert not result.served
            continue
        assert answer.refusal is None, answer.refusal
        package, build = SERVED[example, result.name]
        assert answer.builds[package] == build
        others = {"vllm-kernels-cpu", "vllm-kernels-cuda", "vllm-kernels-rocm"} - {package}
        assert not others & set(answer.builds)
        # Every package is one that the solver takes under exactly these virtual packages.
        again = channels.solve(exact(answer.records), result.node.platform, result.machine)
        assert sorted(exact(again)) == sorted(exact(answer.records))


@pytest.mark.parametrize(
    ("specs", "keys", "text"),
    [
        (["vllm-kernels-cpu"], {"glibc": "2.17"}, "needs glibc >= 2.28, the node has 2.17"),
        (
            ["vllm-kernels-cpu"],
            {"archspec": "nehalem"},
            "needs x86_64 level 3, the node's CPU nehalem is level 2",
        ),
        (
            [f"vllm-kernels-cpu =={VERSION} h4_400"],
            {"archspec": "zen2"},
            "needs x86_64 level 4, the node's CPU zen2 is level 3",
        ),
        (
            ["vllm-kernels-cpu"],
            {"platform": "linux-ppc64le", "archspec": "power8le"},
            "needs ppc64le level 9, the node's CPU power8le is level 8",
        ),
        (
            ["vllm-kernels-cpu"],
            {"platform": "linux-aarch64", "archspec": "cortex_a72"},
            "needs Armv8.2-A, the node's CPU cortex_a72 is the aarch64 baseline",
        ),
        (["vllm-kernels-cuda"], {}, "needs __cuda >= 12, the node has no GPU driver"),
        (
            ["vllm-kernels-cuda"],
            {**GPU, "cuda": "11.4"},
            "needs __cuda >= 12, the node's driver supports CUDA 11.4",
        ),
        (
            [f"vllm-kernels-cuda =={VERSION} cuda130_all_h0_113000"],
            GPU,
            "needs __cuda >= 13, the node's driver supports CUDA 12.8",
        ),
        (
            ["vllm-kernels-cuda"],
            {**GPU, "cuda_arch": "[7.0]"},
            "needs __cuda_arch >= 7.5, the node's GPU has 7.0",
        ),
        (
            ["vllm-flashmla"],
            {**GPU, "cuda_arch": "[8.0]"},
            "needs __cuda_arch >= 9.0, the node's GPU has 8.0",
        ),
        (
            ["vllm-flashmla"],
            {**GPU, "cuda_arch": "[12.0]"},
            "needs __cuda_arch < 10.0, the node's GPU has 12.0",
        ),
        (
            ["vllm-flashmla"],
            {**GPU, "cuda_arch": "[8.9, 9.0]"},
            "needs __cuda_arch >= 9.0, the node's lowest GPU has 8.9 (of 8.9, 9.0)",
        ),
        (
            ["vllm-flashmla"],
            {**GPU, "cuda_arch": "[9.0, 12.0]"},
            "needs __cuda_arch < 10.0, but the node also has a GPU of 12.0",
        ),
        (
            ["vllm-kernels-cuda"],
            {"platform": "linux-ppc64le", "archspec": "power9le"},
            "no package vllm-kernels-cuda for linux-ppc64le in the channels, only for linux-64, "
            "linux-aarch64",
        ),
        (["vllm-kernels-rocm"], {}, NO_AMD_GPU),
        (["vllm-kernels-rocm"], GPU, NO_AMD_GPU),
        (
            ["vllm-kernels-rocm"],
            {"amdgpu": "gfx1030"},
            "needs a GPU of gfx90a or gfx942 or gfx1100 or gfx1201 (__amdgpu_arch), the node's GPU "
            "is gfx1030",
        ),
        (
            ["vllm-kernels-cuda"],
            {"amdgpu": "gfx942"},
            "needs __cuda >= 12, the node has no GPU driver",
        ),
        (
            ["vlm-cuda"],
            {},
            "no package vlm-cuda in the channels. Did you mean 'vllm-kernels-cuda'?",
        ),
        (
            ["vllm-kernels-cpu 0.27.*"],
            {},
            "no package matches 'vllm-kernels-cpu 0.27.*' for linux-64, "
            f"the channels have {VERSION}",
        ),
        (
            ["vllm-kernels-cuda", "vllm-kernels-cpu"],
            {"glibc": "2.17"},
            "needs glibc >= 2.28, the node has 2.17; "
            "needs __cuda >= 12, the node has no GPU driver",
        ),
    ],
)
def test_refusals(channels: Channels, specs: list[str], keys: dict[str, str], text: str) -> None:
    assert refusal(channels, specs, **keys) == text


def test_what_is_asked_for_solves(channels: Channels) -> None:
    """The named property, and no other, makes the difference."""
    assert one(channels, ["vllm-kernels-cpu"], glibc="2.28").served
    assert one(channels, ["vllm-kernels-cpu"], archspec="x86_64_v3").served
    assert one(channels, ["vllm-kernels-cuda"], cuda="12.0", cuda_arch="[7.5]").served
    assert one(channels, ["vllm-flashmla"], cuda="12.8", cuda_arch="[9.0]").served
    for target in ("gfx90a", "gfx942", "gfx1100", "gfx1201"):
        assert one(channels, ["vllm-kernels-rocm"], amdgpu=target).served


def test_missing_dependency_is_not_blamed_on_the_node(tmp_path: Path, addresses: list[str]) -> None:
    library = site_channel.library_channel(
        tmp_path / "libraries", [("linux-ppc64le", "pytorch"), ("linux-ppc64le", "libtorch")]
    )
    keys = {"platform": "linux-ppc64le", "archspec": "power9le"}
    text = refusal(Channels([addresses[0], library]), ["vllm-kernels-cpu"], **keys)
    assert "torch >=2.11" in text
    assert "for linux-ppc64le in the channels, only for linux-64, linux-aarch64" in text


def test_cpu_that_the_level_packages_do_not_list(tmp_path: Path) -> None:
    channel = site_channel.Channel(tmp_path / "channel")
    names = '__archspec 1.*[build="^(haswell|x86_64_v3|x86_64_v4)$"]'
    channel.add("noarch", "_x86_64-microarch-level", "3", "h0_0", [names])
    channel.add("linux-64", "tool", "1", "h0_0", ["_x86_64-microarch-level >=3"])
    text = refusal(Channels([channel.write()]), ["tool"], archspec="zen5")
    assert "do not list the node's CPU zen5" in text
    assert "CONDA_OVERRIDE_ARCHSPEC=x86_64_v4" in text


LEVELS_OF_X86 = (
    "CONDA_OVERRIDE_ARCHSPEC is to name its level: x86_64_v3 if it runs x86_64 level 3, "
    "x86_64_v4 if it runs x86_64 level 4"
)
HOW_TO_FIND = "`archspec cpu` on the node prints its name."


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"archspec": "zen9"}, f"'zen9'. {HOW_TO_FIND} {LEVELS_OF_X86}"),
        ({"archspec": "zenn4"}, f"'zenn4'. Did you mean 'zen4'? {LEVELS_OF_X86}"),
        ({"archspec": "EPYC 9654"}, f"'EPYC 9654'. {HOW_TO_FIND} {LEVELS_OF_X86}"),
        (
            {"archspec": "cortex_x925", "platform": "linux-aarch64"},
            f"'cortex_x925'. {HOW_TO_FIND} CONDA_OVERRIDE_ARCHSPEC is to name its level: "
            "armv8.2a if it runs Armv8.2-A",
        ),
        (
            {"archspec": "power11le", "platform": "linux-ppc64le"},
            "power9le if it runs ppc64le level 9, power10le if it runs ppc64le level 10",
        ),
    ],
)
def test_unknown_cpu_refuses_its_node_type_alone(
    channels: Channels, keys: dict[str, str], text: str
) -> None:
    nodes = node(**keys) + "\n" + node().replace("  a:", "  b:")
    unknown, other = check_site(site_of(nodes), channels, ["vllm-kernels-cpu"])
    assert other.answers[0].builds["vllm-kernels-cpu"] == V4
    refused = unknown.answers[0].refusal
    assert refused is not None
    assert refused.text.startswith("needs a CPU level, and archspec knows no CPU ")
    assert text in refused.text
    # The override that is named gets the packages.
    assert one(channels, ["vllm-kernels-cpu"], **{**keys, "archspec": refused.needs}).served


def test_unknown_cpu_gets_what_needs_no_level(channels: Channels) -> None:
    keys = {"platform": "linux-aarch64", "cuda": "13.0", "cuda_arch": "[12.1]"}
    result = one(channels, ["vllm-kernels-cuda"], **keys, archspec="cortex_x925")
    assert result.answers[0].builds["vllm-kernels-cuda"] == CUDA13
    assert result.notes == (
        "archspec knows no CPU 'cortex_x925', but these packages need no CPU level.",
    )


@pytest.mark.parametrize(
    ("depends", "constrains", "keys", "text"),
    [
        (["__linux >=5.10"], [], {"linux": "4.18.0-553.el8"}, "needs a Linux kernel >= 5.10"),
        (["__linux >=5.10"], [], {}, "is not declared (key linux)"),
        (
            [],
            ["__cuda_arch >=7.5,!=8.7,!=8.8"],
            {"cuda": "12.6", "cuda_arch": "[8.7]"},
            "needs __cuda_arch != 8.7, the node's GPU has 8.7",
        ),
        ([], ["__cuda 12.*"], {"cuda": "13.1", "cuda_arch": "[9.0]"}, "needs __cuda < 13"),
        (["__cuda_arch ==9.0"], [], {"cuda": "13.1", "cuda_arch": "[10.0]"}, "__cuda_arch <= 9.0"),
        (["__glibc >2.34"], [], {}, "needs glibc > 2.34, the node has 2.34"),
        (["__cuda"], [], {}, "needs __cuda, the node has no GPU driver"),
        (["__win"], [], {}, "needs __win, which no linux-64 node has"),
        (["a >=2", "b"], [], {}, "needs a >=2: no package a in the channels"),
        (["part >=2"], [], {}, "needs part >=2, which the channels lack for linux-64"),
        (
            ["__archspec 1.*[build='^(a64fx)$']"],
            [],
            {"platform": "linux-aarch64", "archspec": "neoverse_n1"},
            "needs a CPU such as a64fx, the node's is neoverse_n1",
        ),
    ],
)
def test_bounds_of_every_form(
    tmp_path: Path, depends: list[str], constrains: list[str], keys: dict[str, str], text: str
) -> None:
    channel = site_channel.Channel(tmp_path / "channel")
    channel.add("linux-64", "part", "1", "h0_0")
    channel.add(keys.get("platform", "linux-64"), "tool", "1", "h0_0", depends, constrains)
    assert text in refusal(Channels([channel.write()]), ["tool"], **keys)


def test_gpu_node_with_the_cpu_build_is_pointed_out(channels: Channels) -> None:
    result = check_site(load_site(example_path("ac922")), channels)[1]
    assert result.served
    assert (
        "gets the CPU build although it has GPUs: no package vllm-kernels-cuda" in result.notes[0]
    )
    asked_for = one(channels, ["vllm-kernels-cpu"], **GPU)
    assert not asked_for.notes


def test_channels_without_cuda_packages(tmp_path: Path) -> None:
    channel = site_channel.Channel(tmp_path / "channel")
    channel.add("linux-64", "vllm-kernels-cpu", "1", "h0_0")
    channel.add("linux-64", "vllm-kernels", "1", "h0_0", ["vllm-kernels-cpu"])
    result = one(Channels([channel.write()]), ["vllm-kernels"], **GPU)
    assert result.notes == (
        "gets the CPU build although it has GPUs: the channels have no vllm-kernels-cuda",
    )


def test_each_spec_by_itself(channels: Channels) -> None:
    result = check_site(
        site_of(node()), channels, ["vllm-kernels-cpu", "vllm-kernels-cuda"], each=True
    )[0]
    assert [answer.refusal is None for answer in result.answers] == [True, False]


def test_specs_of_the_file_and_of_a_node(channels: Channels) -> None:
    nodes = node() + "\n" + node(specs="[vllm-core]").replace("  a:", "  b:")
    results = check_site(site_of(nodes, specs="[vllm-kernels-cpu]"), channels)
    assert [list(r.answers[0].builds) for r in results] == [
        ["vllm-kernels-cpu", "vllm-core"],
        ["vllm-core"],
    ]


def test_kernels_that_have_never_run_are_said_to(channels: Channels) -> None:
    named = one(channels, ["vllm-kernels-rocm"], amdgpu="gfx942")
    assert named.notes == (
        "vllm-kernels-rocm was never run on a GPU, and conda-forge has no PyTorch for ROCm: it has "
        "to come from a channel of the site's",
    )
    chosen = one(channels, ["vllm-kernels"], amdgpu="gfx942")
    assert "vllm-kernels-cpu" in chosen.answers[0].builds
    assert chosen.notes == (
        "gets the CPU build although it has GPUs: vllm-kernels-rocm, never run on a GPU, has to be "
        "named",
    )
