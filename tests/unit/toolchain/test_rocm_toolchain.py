"""The channel of clang and HIP: what it holds, and where it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import ROOT

from vllm_conda import toolchain
from vllm_conda.errors import ConfigError
from vllm_conda.progress import Reporter
from vllm_conda.targets import load_targets
from vllm_conda.toolchain import model, rocm
from vllm_conda.yaml_files import load_yaml


def test_recipe_finds_its_packages_in_the_channel() -> None:
    data = load_yaml((ROOT / "recipe" / "recipe.yaml").read_text())
    (staging,) = (
        one for one in data["outputs"] if one.get("staging", {}).get("name") == "rocm-build"
    )
    wanted = [*staging["requirements"]["build"], *staging["requirements"]["host"]]
    names = {str(spec).split()[0] for spec in wanted}
    assert rocm.names() == {"clangxx", "clang-tools", "hip", "lld"}
    assert rocm.names() <= names


def test_platforms_are_those_of_the_table() -> None:
    catalog = model.parse(rocm.catalog_text())
    assert catalog.platforms == load_targets(ROOT).rocm.platforms


def test_run_time_is_that_of_the_table() -> None:
    """The library's name holds HIP's major version, which the job and the package state."""
    catalog = model.parse(rocm.catalog_text())
    (hip,) = (package for package in catalog.packages if package.name == "hip")
    major = load_targets(ROOT).rocm.hip
    assert hip.links == {"lib/libamdhip64.so": f"libamdhip64.so.{major}"}
    assert f"libamdhip64-{major}" in catalog.apt["hip"].names


def test_other_platforms_are_refused_before_a_download(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no clang and HIP for linux-aarch64, only for linux-64"):
        toolchain.ensure("linux-aarch64", ["rocm"], reporter=Reporter(), cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
