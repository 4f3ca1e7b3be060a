"""FlashInfer's packages as the recipe renders them: who gets them, and who is refused why."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import pytest
import site_channel
from rattler_build import RenderConfig, Stage0Recipe, VariantConfig
from rattler_build.tool_config import PlatformConfig
from support import ROOT

from vllm_conda.flashinfer.package import NAMES, Choice, inputs, variant
from vllm_conda.jobs import select
from vllm_conda.recipe import FLASHINFER_RECIPE_FILE
from vllm_conda.render import environment
from vllm_conda.site.channels import Channels
from vllm_conda.site.examples import example_path
from vllm_conda.site.model import load_site
from vllm_conda.site.preflight import check_site
from vllm_conda.targets import load_targets

TARGETS = load_targets(ROOT)
RELEASE = TARGETS.flashinfer.release
PLATFORM = "linux-64"
# What conda-forge has, besides what site_channel makes.
OTHERS = (
    "click", "einops", "filelock", "jinja2", "numpy", "nvidia-ml-py", "requests", "tabulate",
    "tqdm",
)  # fmt: skip


def render(
    channel: site_channel.Channel, cuda: str, modules: str, release: str = RELEASE
) -> list[str]:
    """Add the packages of one build to the channel; returns their names."""
    (job,) = select(TARGETS, [f"{PLATFORM}-cuda-{cuda}-{TARGETS.flashinfer.slice}"])
    choice = Choice(job, release, modules)
    keys = variant(TARGETS, choice, dict.fromkeys(NAMES, f"{cuda}{modules}"))
    config = RenderConfig(platform=PlatformConfig(target_platform=PLATFORM))
    names = []
    with environment(inputs(TARGETS, choice)):
        recipe = Stage0Recipe.from_file(ROOT / FLASHINFER_RECIPE_FILE)
        rendered = recipe.render(VariantConfig(keys), config)
    for one in (variant_of.recipe for variant_of in rendered):
        names.append(one.package.name)
        subdir = "noarch" if one.package.name == NAMES[0] else PLATFORM
        channel.add(
            subdir, one.package.name, one.package.version, str(one.build.string),
            *site_channel.needs_of(one), one.build.number,
        )  # fmt: skip
    return names


def channels_of(folder: Path, releases: Iterable[str]) -> Channels:
    channel = site_channel.Channel(folder / "own")
    for release, cuda in itertools.product(releases, ("12.4", "13.0")):
        for modules in TARGETS.flashinfer.sets:
            assert render(channel, cuda, modules, release) == list(NAMES)
    for cuda in ("12.4", "13.0"):
        channel.add(PLATFORM, "cuda-cudart", cuda, "h0_0", [f"cuda-version {cuda}.*"])
    for name in OTHERS:
        channel.add("noarch", name, "1.0", "h0_0")
    channel.add("noarch", "packaging", "26.0", "h0_0")
    for version in ("0.1.9", "0.1.15", "0.2.0"):
        channel.add(PLATFORM, "apache-tvm-ffi", version, "h0_0")
    for version in ("0.26.0", "0.33.0"):
        channel.add("noarch", "vllm-engine", version, "h0_0")
    libraries = site_channel.library_channel(folder / "libraries")
    return Channels([channel.write(), libraries])


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Channels:
    return channels_of(tmp_path_factory.mktemp("flashinfer"), [RELEASE])


@pytest.mark.parametrize(
    ("example", "node", "refusal"),
    [
        ("h200", "server", ""),
        ("h200", "login", "the node has no GPU driver"),
        ("leonardo", "booster", "needs __cuda_arch >= 9.0, the node's GPU has 8.0"),
        ("mixed", "gpu", "__cuda_arch"),
        ("workstation", "workstation", "needs __cuda_arch < 9.1, the node's GPU has 12.0"),
        ("jupiter", "booster", "no package vllm-flashinfer for linux-aarch64"),
    ],
)
def test_examples(channels: Channels, example: str, node: str, refusal: str) -> None:
    results = check_site(load_site(example_path(example)), channels, ["vllm-flashinfer"])
    (result,) = (one for one in results if one.name == node)
    answer = result.answers[0]
    if refusal:
        assert answer.refusal is not None
        assert refusal in answer.refusal.text
    else:
        assert result.served


def solved(channels: Channels, *specs: str, cuda: str = "13.0") -> dict[str, tuple[str, str]]:
    machine = {
        "__unix": "0", "__linux": "6.1", "__glibc": "2.39", "__archspec": "zen4",
        "__cuda": cuda, "__cuda_arch": "9.0",
    }  # fmt: skip
    records = channels.solve(list(specs), PLATFORM, machine)
    return {one.name.normalized: (str(one.version), str(one.build)) for one in records}


@pytest.mark.parametrize(("cuda", "wanted"), [("13.0", "cuda130_"), ("12.8", "cuda124_")])
def test_the_newest_cuda_of_the_driver_with_most_modules(
    channels: Channels, cuda: str, wanted: str
) -> None:
    found = solved(channels, "vllm-flashinfer", cuda=cuda)
    assert found["vllm-flashinfer"][1].startswith(f"{wanted}{list(TARGETS.flashinfer.sets)[-1]}_")
    assert found["flashinfer-python"][0] == RELEASE
    assert found["apache-tvm-ffi"][0] == "0.1.15"
    assert found["pytorch"][1].startswith("cuda")
    found = solved(channels, "vllm-flashinfer[build=*_sampling_*]", cuda=cuda)
    assert "_sampling_" in found["vllm-flashinfer"][1]


def test_beside_the_engine_that_pins_it(channels: Channels) -> None:
    assert solved(channels, "vllm-flashinfer", "vllm-engine")["vllm-engine"][0] == "0.26.0"


def test_each_engine_gets_the_release_that_it_pins(tmp_path: Path) -> None:
    """Of a channel with all of them."""
    both = channels_of(tmp_path, TARGETS.flashinfer.releases)
    for engine, wanted in (("0.26.0", "0.6.14"), ("0.33.0", "0.7.2.post1")):
        found = solved(both, "vllm-flashinfer", f"vllm-engine=={engine}")
        assert found["vllm-flashinfer"][0] == found["flashinfer-python"][0] == wanted
