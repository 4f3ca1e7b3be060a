"""The feedstock's files: their form, their names, and that they merge with conda-forge's pins."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import support
import yaml
from rattler_build import RenderConfig, VariantConfig
from rattler_build.jinja_config import JinjaConfig
from rattler_build.tool_config import PlatformConfig
from support import ROOT, SHARED_SCHEMAS

from vllm_conda.cli import main
from vllm_conda.errors import ConfigError, StaleFileError
from vllm_conda.feedstock.config import COMPILER_GROUP, conda_build_config, feedstock_jobs
from vllm_conda.feedstock.rerender import FORGE_FILE, WORKFLOW_FILE, check, files, rerender
from vllm_conda.feedstock.support import configuration_name, configurations
from vllm_conda.jobs import jobs
from vllm_conda.matrix import packages
from vllm_conda.recipe import load_recipe
from vllm_conda.render import environment, render
from vllm_conda.resources import compile_jobs
from vllm_conda.targets import Targets, load_targets, parse_targets, read_table

TARGETS = load_targets(ROOT)
RECIPE = load_recipe(ROOT)
PINS = SHARED_SCHEMAS / "conda-forge-pinning.yaml"


def read(path: Path, platform: str) -> tuple[dict[str, list[Any]], list[list[str]]]:
    """A conda_build_config.yaml on one platform, as conda-smithy would select its lines."""
    jinja = JinjaConfig(platform=PlatformConfig(target_platform=platform))
    with environment({"CF_CUDA_ENABLED": "True", "BUILD_PLATFORM": platform}):
        config = VariantConfig.from_conda_build_config(path, jinja)
    return config.to_dict(), config.zip_keys or []


def merged(
    pins: dict[str, list[Any]], groups: list[list[str]], own: dict[str, list[Any]]
) -> dict[str, list[Any]]:
    """conda-build's rule: a zipped key is replaced with its whole group, or by as many values."""
    result = dict(pins)
    for key, values in own.items():
        group = next((g for g in groups if key in g), [key])
        whole = all(member in own for member in group)
        if whole:
            assert {len(own[member]) for member in group} == {len(values)}, group
        else:
            assert len(values) == len(pins.get(key, values)), f"{key} does not fit its group"
        result[key] = values
    return result


def test_committed_files_are_current() -> None:
    assert check(ROOT, TARGETS, RECIPE) == len(files(TARGETS, RECIPE))


@pytest.mark.parametrize("platform", list(TARGETS.platforms))
def test_axes_of_the_configuration_are_the_feedstock_jobs(platform: str) -> None:
    own, groups = read(ROOT / "conda_build_config.yaml", platform)
    assert own["microarch_level"] == [str(n) for n in TARGETS.platforms[platform].levels]
    group = next(g for g in groups if "cuda_compiler_version" in g)
    assert tuple(group) == COMPILER_GROUP
    lengths = {len(own[key]) for key in group if key in own}
    assert lengths == {len(own["cuda_compiler_version"])}
    wanted = {job.cuda or "None" for job in feedstock_jobs(TARGETS) if job.platform == platform}
    assert set(own["cuda_compiler_version"]) == wanted
    # One compiler and one C library, or vllm-core would not be one package.
    for key in set(group) & set(own) - {"cuda_compiler_version"}:
        assert len(set(own[key])) == 1


@pytest.mark.parametrize("platform", list(TARGETS.platforms))
def test_configuration_merges_with_conda_forge_pins(platform: str) -> None:
    if not PINS.is_file():
        pytest.skip("conda-forge's global pins are not at hand")
    pins, theirs = read(PINS, platform)
    own, ours = read(ROOT / "conda_build_config.yaml", platform)
    for group in ours:
        for other in theirs:
            assert group == other or not set(group) & set(other), "a key in two groups"
    result = merged(pins, [*theirs, *ours], own)
    combinations = VariantConfig(
        {key: result[key] for key in (*COMPILER_GROUP, "microarch_level") if key in result},
        zip_keys=[[key for key in COMPILER_GROUP if key in result]],
    ).combinations()
    wanted = {
        (job.cuda or "None", str(job.level))
        for job in feedstock_jobs(TARGETS)
        if job.platform == platform
    }
    levels = TARGETS.platforms[platform].levels
    found = {(str(c["cuda_compiler_version"]), str(c["microarch_level"])) for c in combinations}
    # The recipe skips CUDA with any but the lowest level.
    assert {p for p in found if p[0] == "None" or p[1] == str(levels[0])} == wanted


def test_recipe_skips_what_a_feedstock_multiplies_too_much() -> None:
    job = next(job for job in feedstock_jobs(TARGETS) if job.device == "cuda")
    own, _ = read(ROOT / "conda_build_config.yaml", job.platform)
    fixed = {
        "c_compiler": ["gcc"],
        "cxx_compiler": ["gxx"],
        "c_stdlib": ["sysroot"],
        "cuda_compiler": ["cuda-nvcc"],
        "c_stdlib_version": own["c_stdlib_version"][:1],
        "microarch_floor": own["microarch_floor"],
        "cuda_slice": own["cuda_slice"],
        "cuda_arch_bound": own["cuda_arch_bound"],
        "cuda_compiler_version": [job.cuda],
    }
    for level in own["microarch_level"]:
        rendered = render(RECIPE, job, {**fixed, "microarch_level": [level]})
        assert bool(rendered) == (level == own["microarch_floor"][0])


def test_lint_of_conda_smithy_renders_without_axes() -> None:
    """With conda-forge's compilers alone, and for platforms that there are no packages for."""
    compilers = {
        "c_compiler": ["gcc"], "cxx_compiler": ["gxx"], "cuda_compiler": ["cuda-nvcc"],
        "c_stdlib": ["sysroot"], "c_stdlib_version": ["2.17"],
    }  # fmt: skip
    for platform in (*TARGETS.platforms, "osx-64", "osx-arm64", "win-64"):
        config = RenderConfig(platform=PlatformConfig(target_platform=platform))
        rendered = RECIPE.stage0.render(VariantConfig(compilers), config)
        names = [one.recipe.package.name for one in rendered]
        assert bool(names) == (platform in TARGETS.platforms), (platform, names)


def test_what_conda_smithy_asks_of_a_recipe() -> None:
    data = RECIPE.data
    assert data["build"]["number"]
    assert {"homepage", "summary", "license", "license_file"} <= set(data["about"])
    for output in data["outputs"]:
        if "package" in output:
            about = output["about"]
            files = about["license_file"]
            assert {"summary", "description", "license"} <= set(about), output["package"]
            assert files == "LICENSE" or "LICENSE" in files


def test_licences_of_what_is_compiled_in() -> None:
    """CUTLASS wherever its headers are, PyTorch's wherever its stable ABI's are."""
    for output in RECIPE.data["outputs"]:
        if "package" not in output or "inherit" not in output:
            continue
        staging = next(
            one for one in RECIPE.data["outputs"]
            if one.get("staging", {}).get("name") == output["inherit"]
        )  # fmt: skip
        host = staging["requirements"]["host"]
        files = output["about"]["license_file"]
        assert ("licenses/CUTLASS.txt" in files) == ("cutlass" in host)
        assert ("licenses/PyTorch.txt" in files) == ("libtorch" in host)
        assert "BSD-3-Clause" in output["about"]["license"]
        for file in files:
            assert (ROOT / file).read_text().strip()


def test_one_configuration_a_job_in_conda_smithy_form() -> None:
    found = configurations(TARGETS, RECIPE)
    assert [one.job for one in found] == feedstock_jobs(TARGETS)
    assert len({one.name for one in found}) == len(found)
    for one in found:
        data = yaml.safe_load((ROOT / one.path).read_text())
        assert list(data) == sorted(data)
        groups, pinned = data.pop("zip_keys", []), data.pop("pin_run_as_build", {})
        assert set(pinned) <= {"python"}
        assert all(key in data for group in groups for key in group)
        for key, values in data.items():
            assert len(values) == 1, key
            assert isinstance(values[0], str), key
        assert data["target_platform"] == [one.job.platform]
        assert data["channel_targets"] == ["conda-forge main"]
        assert data["docker_image"][0].endswith(f":{TARGETS.feedstock.image}")
        if one.job.device == "cuda":
            assert data["cuda_compiler_version"] == [one.job.cuda]
        # The file alone renders the job's packages.
        names = [o.name for o in render(RECIPE, one.job, data)]
        assert names == list(packages(TARGETS, one.job))


def test_vllm_core_is_one_package_for_a_platform_of_the_feedstock() -> None:
    seen: dict[str, set[str]] = {}
    for one in configurations(TARGETS, RECIPE):
        values = {k: v for k, v in one.keys.items() if k not in ("zip_keys", "pin_run_as_build")}
        core = next(o for o in render(RECIPE, one.job, values) if o.name == "vllm-core")
        seen.setdefault(one.job.platform, set()).add(core.file_name)
    assert all(len(names) == 1 for names in seen.values()), seen


@pytest.mark.parametrize("platform", list(TARGETS.platforms))
def test_conda_smithy_makes_one_job_a_platform(platform: str) -> None:
    """It splits by the axes that *every* output uses (since 3.47.2); ours have none in common."""
    chosen = [one for one in configurations(TARGETS, RECIPE) if one.job.platform == platform]
    used: dict[str, set[str]] = {}
    values: dict[str, set[str]] = {}
    for one in chosen:
        keys = {k: v for k, v in one.keys.items() if k not in ("zip_keys", "pin_run_as_build")}
        for key, (value,) in keys.items():
            values.setdefault(key, set()).add(str(value))
        for output in render(RECIPE, one.job, keys):
            used.setdefault(output.name, set()).update(output.variant)
    axes = {key for key, found in values.items() if len(found) > 1}
    assert axes <= {"microarch_level", "cuda_compiler_version", "cuda_slice"}
    assert "microarch_level" in axes or platform == "linux-aarch64"
    assert set.intersection(axes, *used.values()) == set()
    # Whatever splits it, each axis is some output's, so the one job makes all of them.
    assert axes <= set().union(*used.values())
    page = (ROOT / "docs/packagers/feedstock.md").read_text()
    assert "one configuration, and one CI job, a platform" in page


def test_names_hold_what_differs_and_no_unsafe_character() -> None:
    name = configuration_name(
        "linux-64", [("python", "3.12.* *_cpython"), ("cuda_compiler_version", "12.9")]
    )
    assert name == "linux_64_cuda_compiler_version12.9python3.12.____cpython"
    assert configuration_name("linux-aarch64", []) == "linux_aarch64_"
    for one in configurations(TARGETS, RECIPE):
        assert re.fullmatch(r"[\w.]+", one.name)
        assert one.name.startswith(one.job.platform.replace("-", "_") + "_")


def test_settings_match_the_schema() -> None:
    data = yaml.safe_load((ROOT / FORGE_FILE).read_text())
    if SHARED_SCHEMAS.is_dir():
        jsonschema = pytest.importorskip("jsonschema")
        schema = json.loads((SHARED_SCHEMAS / "conda-forge.yml.schema.json").read_text())
        jsonschema.Draft202012Validator(schema).validate(data)
    platforms = {name.replace("-", "_") for name in TARGETS.platforms}
    assert set(data["build_platform"]) == platforms
    assert set(data["build_platform"].values()) <= set(data["provider"])
    assert data["conda_build_tool"] == "rattler-build"
    assert data["conda_build"] == {"error_overlinking": True}
    minutes = {device.minutes for device in TARGETS.feedstock.devices.values()}
    assert data["github_actions"]["timeout_minutes"] == max(minutes)
    assert data["workflow_settings"]["free_disk_space"][0]["value"] == "max"


def test_workflow_has_one_job_a_variant_with_its_settings() -> None:
    data = yaml.safe_load((ROOT / WORKFLOW_FILE).read_text())
    matrix = {
        name: {one["variant"]: one for one in data["jobs"][name]["strategy"]["matrix"]["include"]}
        for name in ("build", "slices")
    }
    every = jobs(TARGETS)
    assert list(matrix["build"]) == [job.name for job in every if not job.opt_in]
    assert list(matrix["slices"]) == [job.name for job in every if job.opt_in]
    assert "workflow_dispatch" in data["jobs"]["slices"]["if"]
    for job in every:
        entry = matrix["slices" if job.opt_in else "build"][job.name]
        device = TARGETS.feedstock.devices[job.device]
        machine = TARGETS.feedstock.runners[entry["runner"]]
        assert entry["minutes"] == device.minutes
        assert entry["disk"] == device.free_disk_space
        assert entry["swap_gib"] == device.swap_gib
        assert 1 <= entry["jobs"] <= machine.cores
        if job.device == "cuda":
            peak = max(family.mib for family in TARGETS.cuda.families.values())
            assert entry["jobs"] * peak <= machine.memory_gib * 1024


def test_compile_jobs_follow_the_memory_of_the_hungriest_family() -> None:
    data = read_table(ROOT)
    data["cuda"]["families"]["attention"]["parts"]["sm90"]["mib"] = 7000
    targets = parse_targets(data)
    cuda = next(job for job in jobs(targets) if job.device == "cuda")
    assert compile_jobs(targets, cuda) == 16 * 1024 // 7000


@pytest.mark.parametrize("change", ["edit", "delete", "extra"])
def test_check_names_the_stale_file_and_rerender_repairs_it(tmp_path: Path, change: str) -> None:
    rerender(tmp_path, TARGETS, RECIPE)
    assert check(tmp_path, TARGETS, RECIPE)
    one = configurations(TARGETS, RECIPE)[0]
    victim = tmp_path / one.path
    if change == "edit":
        victim.write_text(victim.read_text().replace("gxx", "clangxx"))
    elif change == "delete":
        victim.unlink()
    else:
        victim = tmp_path / ".ci_support" / "linux_64_old.yaml"
        victim.write_text("a:\n- b\n")
    with pytest.raises(StaleFileError, match=victim.name) as caught:
        check(tmp_path, TARGETS, RECIPE)
    assert "vllm-conda rerender" in caught.value.hint
    assert [path.name for path in rerender(tmp_path, TARGETS, RECIPE)] == [victim.name]
    assert check(tmp_path, TARGETS, RECIPE)


PINS_TEXT = """
libhwy:
  - '{libhwy}'
libtorch:
  - '{libtorch}'
channel_sources:
  - conda-forge
channel_targets:
  - conda-forge main
{more}
"""


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"libhwy": "9.9"}, "libhwy is 1.4, conda-forge's is 9.9"),
        ({"more": "onednn:\n  - '3.7'"}, "onednn is missing"),
    ],
)
def test_pins_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str], part: str
) -> None:
    path = tmp_path / "conda_build_config.yaml"
    good = {**TARGETS.feedstock.pins, "more": ""}
    path.write_text(PINS_TEXT.format(**good))
    words = ["rerender", "--check", "--root", str(ROOT), "--pins", str(path)]
    assert main(words) == 0, capsys.readouterr().err
    path.write_text(PINS_TEXT.format(**{**good, **change}))
    assert main(words) == ConfigError.exit_code
    message = capsys.readouterr().err
    assert "[feedstock.pins]" in message
    assert part in message


def test_pins_agree_with_conda_forge() -> None:
    if not PINS.is_file():
        pytest.skip("conda-forge's global pins are not at hand")
    assert main(["rerender", "--check", "--root", str(ROOT), "--pins", str(PINS)]) == 0


def planted(change: dict[str, Any]) -> Targets:
    data = read_table(ROOT)
    for key, value in change.items():
        table = data
        *parents, last = key.split("/")
        for parent in parents:
            table = table[parent]
        table[last] = value
    return parse_targets(data)


def test_a_new_toolkit_of_conda_forge_is_a_new_configuration(tmp_path: Path) -> None:
    targets = planted({"cuda/toolkits/13.0/conda_forge": True})
    names = [one.name for one in configurations(targets, RECIPE)]
    assert any("cuda_compiler_version13.0" in name for name in names)
    assert '"13.0"' in conda_build_config(targets)


def test_toolkits_that_begin_at_different_archs_cannot_share_the_bound() -> None:
    targets = planted({"cuda/toolkits/13.4/archs": ["8.0", "9.0+PTX"]})
    with pytest.raises(ConfigError, match="different architectures") as caught:
        conda_build_config(targets)
    assert "[cuda.toolkits]" in str(caught.value)


def test_rerender_in_a_checkout_by_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = support.checkout(tmp_path / "checkout")
    assert main(["rerender", "--check", "--root", str(root)]) == StaleFileError.exit_code
    assert main(["rerender", "--root", str(root)]) == 0
    assert "wrote conda-forge.yml" in capsys.readouterr().out
    assert main(["rerender", "--check", "--root", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changed"] == []
    shutil.rmtree(root / ".ci_support")
    assert main(["rerender", "--check", "--root", str(root)]) == StaleFileError.exit_code
