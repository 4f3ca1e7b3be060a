"""Level packages under py-rattler (pixi, conda's rattler solver) and libsolv (conda, mamba)."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import libsolv
import pytest
import rattler_build
from rattler import Gateway
from rattler.package_streaming import extract
from support import ROOT

from vllm_conda import platforms
from vllm_conda.errors import SolveError
from vllm_conda.microarch import LEVEL_BUILD, level_builds, levels
from vllm_conda.solve import solve_specs, virtual_packages
from vllm_conda.toolchain import host as host_module
from vllm_conda.toolchain import model, variables
from vllm_conda.toolchain.assemble import assemble, build_string, recipe
from vllm_conda.toolchain.stage import Staged

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CATALOGS = {
    "linux-64": "packages.toml",
    "linux-aarch64": "cross/cross.toml",
    "linux-ppc64le": "cross/cross.toml",
}
NOTHING = Staged(Path("/nonexistent"), (), None)


def level_packages(platform: str) -> list[model.Package]:
    """Every ``_FAMILY-microarch-level`` that the platform's catalog stands for."""
    catalog = ROOT / "src/vllm_conda/toolchain" / CATALOGS[platform]
    entry = tomllib.loads(catalog.read_text())["packages"]["_{family}-microarch-level"]
    package = model.Package(
        name="_{family}-microarch-level",
        **{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()},
    )
    package = replace(package, each={k: tuple(v) for k, v in entry["each"].items()})
    family = platforms.table()[platform].family
    host = replace(host_module.detect("linux-64"), platform=platform, family=family)
    found = []
    for instance in package.instances({"{level_builds}": level_builds(family)}):
        known = {"family": family, **variables.of_instance(host, instance)}
        found.append(model.resolve(replace(package, each={}), known, "test"))
    return found


@pytest.fixture(scope="module", params=list(CATALOGS))
def channel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A channel that lists the level packages, as their recipes render."""
    folder = tmp_path_factory.mktemp("levels") / request.param
    noarch = folder / "noarch"
    noarch.mkdir(parents=True)
    rows = {}
    for package in level_packages(request.param):
        text = recipe(package, package.version, NOTHING, folder / "x", [])
        stage0 = rattler_build.Stage0Recipe.from_dict(text, recipe_dir=folder)
        (variant,) = stage0.render(rattler_build.VariantConfig())
        name = f"{package.name}-{package.version}-{build_string(package)}"
        rows[f"{name}.conda"] = {
            "name": package.name, "version": package.version, "build": build_string(package),
            "build_number": 0, "depends": [str(one) for one in variant.recipe.requirements.run],
            "subdir": "noarch", "noarch": "generic", "sha256": "0" * 64, "md5": "0" * 32,
            "size": 1, **({"track_features": name} if package.down_prioritized else {}),
        }  # fmt: skip
    document = {"info": {"subdir": "noarch"}, "packages": {}, "packages.conda": rows}
    (noarch / "repodata.json").write_text(json.dumps(document))
    return folder


def family_of(channel: Path) -> str:
    return platforms.table()[channel.name].family


def test_rattler_takes_the_level(channel: Path, tmp_path: Path) -> None:
    family, gateway = family_of(channel), Gateway(cache_dir=tmp_path)
    found = levels(family)
    for cpu, level in found.items():
        virtual = virtual_packages([f"__archspec=1={cpu}"])
        spec = f"_{family}-microarch-level >={level}"
        (record,) = solve_specs([channel.as_uri()], [spec], channel.name, virtual, gateway)
        assert str(record.build) == f"external_{LEVEL_BUILD}{level}", cpu
        higher = f"_{family}-microarch-level >={level + 1}"
        with pytest.raises(SolveError):
            solve_specs([channel.as_uri()], [higher], channel.name, virtual, gateway)


@pytest.mark.skipif(bool(libsolv.missing()), reason=libsolv.missing())
def test_libsolv_takes_the_cpu(channel: Path, tmp_path: Path) -> None:
    family = family_of(channel)
    for cpu, level in levels(family).items():
        virtual = {"__archspec": f"1={cpu}"}
        repodata = list(libsolv.files(channel.as_uri()))
        spec = f"_{family}-microarch-level >={level}"
        # A pattern of one name is one that libsolv does know.
        builds = (cpu, f"{LEVEL_BUILD}{level}")
        wanted = [[f"_{family}-microarch-level-{level}-external_{build}"] for build in builds]
        assert libsolv.solve(repodata, [spec], virtual, tmp_path) in wanted
        higher = f"_{family}-microarch-level >={level + 1}"
        assert libsolv.solve(repodata, [higher], virtual, tmp_path) == []


def test_every_cpu_has_a_build_without_a_pattern(channel: Path) -> None:
    """What a client compares letter by letter, as conda's classic solver and libsolv do."""
    family = family_of(channel)
    rows = json.loads((channel / "noarch/repodata.json").read_text())["packages.conda"].values()
    plain = {row["depends"][0]: row for row in rows if "^" not in row["depends"][0]}
    for cpu, level in levels(family).items():
        row = plain.pop(f"__archspec 1.* {cpu}")
        assert row["version"] == str(level)
        assert row["track_features"]
    assert not plain


def test_a_built_package_is_down_prioritised(tmp_path: Path) -> None:
    package = next(one for one in level_packages("linux-64") if one.build == "haswell")
    root = tmp_path / "stage"
    root.mkdir()
    file = assemble(package, package.version, "linux-64", Staged(root, (), None), [], tmp_path)
    extract(file, tmp_path / "content")
    index = json.loads((tmp_path / "content/info/index.json").read_text())
    assert index["track_features"]
    assert index["depends"] == ["__archspec 1.* haswell"]
