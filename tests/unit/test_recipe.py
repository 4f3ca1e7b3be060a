"""The recipe rules of docs and design, each shown on the rendered recipe."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import support
import yaml
from support import ROOT, SHARED_SCHEMAS

from vllm_conda.engine.interface import table
from vllm_conda.errors import ConfigError, RecipeError
from vllm_conda.generate.variants import variant_file
from vllm_conda.jobs import Job, select
from vllm_conda.recipe import (
    ENGINE_RECIPE_FILE,
    RECIPE_FILE,
    check_context,
    load_recipe,
)
from vllm_conda.render import Output, render, variant_values
from vllm_conda.targets import load_targets
from vllm_cuda_plan.__main__ import load_table
from vllm_cuda_plan.plan import package_of
from vllm_cuda_plan.table import GENERAL

TARGETS = load_targets(ROOT)
JOBS = select(TARGETS, platforms=["linux-64"], devices=["cpu"])
AXES = {
    "core-build": set(),
    "cpu-build": {"microarch_level"},
    "cuda-build": {"cuda_compiler_version", "cuda_slice"},
    "deepgemm-build": {"cuda_compiler_version"},
    "flashmla-build": {"cuda_compiler_version"},
    "rocm-build": {"hip_compiler_version"},
}


def outputs(
    root: Path, toolchain: str = "", jobs: Sequence[Job] = JOBS
) -> dict[tuple[str, str], Output]:
    recipe = load_recipe(root)
    return {
        (job.name, output.name): output
        for job in jobs
        for output in render(
            recipe,
            job,
            variant_values(root, job, variant_file(TARGETS, job)),
            toolchain=toolchain,
        )
    }


def staging_key(output: Output) -> str:
    """What rattler-build keys a staging build by: its rendered script and requirements."""
    return json.dumps([cache.to_dict() for cache in output.rendered.recipe.staging_caches])


def recipe_data() -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text())
    return data


def test_recipe_matches_the_schema() -> None:
    data = recipe_data()
    if SHARED_SCHEMAS.is_dir():
        jsonschema = pytest.importorskip("jsonschema")
        schema = json.loads((SHARED_SCHEMAS / "recipe.schema.json").read_text())
        jsonschema.Draft202012Validator(schema).validate(data)
    # Without the schema at hand: rattler-build's own parser refuses unknown keys.
    assert load_recipe(ROOT).stage0.schema_version == 1
    assert data["schema_version"] == 1


def test_versions_are_those_of_the_table(tmp_path: Path) -> None:
    check_context(ROOT, TARGETS)
    shutil.copytree(ROOT / "recipe", tmp_path / "recipe")
    shutil.copytree(ROOT / table.FILE.parent, tmp_path / table.FILE.parent)
    file = tmp_path / ENGINE_RECIPE_FILE
    file.write_text(file.read_text().replace(TARGETS.engine.release, "0.1.2"))
    with pytest.raises(RecipeError) as caught:
        check_context(tmp_path, TARGETS)
    assert str(caught.value).startswith(
        f"{ENGINE_RECIPE_FILE}: version is 0.1.2, targets.toml has {TARGETS.engine.release}."
    )


def test_outputs_of_every_job() -> None:
    for job in JOBS:
        names = [name for (found, name) in outputs(ROOT) if found == job.name]
        assert names == ["vllm-core", "vllm-kernels-cpu", "vllm-kernels", "vllm-cpu"]


def test_core_and_metapackages_are_one_package_for_all_jobs() -> None:
    found = outputs(ROOT)
    for name in ("vllm-core", "vllm-kernels", "vllm-cpu"):
        files = {found[job.name, name].file_name for job in JOBS}
        assert len(files) == 1, files
    assert "microarch_level" not in found[JOBS[0].name, "vllm-core"].variant


def test_levels_differ_in_hash_and_staging_key() -> None:
    cpu = [outputs(ROOT)[job.name, "vllm-kernels-cpu"] for job in JOBS]
    assert len({output.file_name for output in cpu}) == len(JOBS)
    assert len({staging_key(output) for output in cpu}) == len(JOBS)


def test_higher_level_has_the_higher_build_number() -> None:
    numbers = [outputs(ROOT)[job.name, "vllm-kernels-cpu"].build_number for job in JOBS]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == len(numbers)


def test_staging_scripts_name_every_axis_and_the_source_hash() -> None:
    for output in recipe_data()["outputs"]:
        if "staging" not in output:
            continue
        name = output["staging"]["name"]
        script = output["build"]["script"]
        text = " ".join(script["env"].values())
        for axis in AXES[name]:
            assert re.search(rf"\b{axis}\b", text), f"{name}: {axis} is not in script.env"
        assert f"{name.removesuffix('-build')}_source_hash" in text
        assert "VLLM_CONDA_TOOLCHAIN" in text
    assert set(JOBS[0].axes()) == set().union(*AXES.values()), "a new axis: add it to AXES"


def test_whoever_builds_says_where_the_sources_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CONDA_ADDRESS", raising=False)
    for address in ("", "https://git.example.org/hpc/kernels"):
        if address:
            monkeypatch.setenv("VLLM_CONDA_ADDRESS", address)
        wanted = address or "https://github.com/vllm-project/vllm"
        for output in support.plan(ROOT, [JOBS[0].name]).distinct():
            about = output.rendered.recipe.to_dict()["about"]
            assert about["homepage"] == about["repository"] == wanted
            assert about["documentation"] == f"{wanted}#readme"
            assert about["summary"]
            assert about["license"]


def test_context_names_no_axis() -> None:
    text = json.dumps(recipe_data()["context"])
    assert "microarch_level" not in text
    assert "_hash" not in text


@pytest.mark.parametrize(
    ("file", "core", "cpu"),
    [
        ("csrc/cpu/norm/norm.cc", False, True),
        ("csrc/cpu/norm/binding.cc", False, True),
        ("csrc/torch/convert.h", True, True),
        ("csrc/torch/ops.cc", True, True),
        ("src/vllm_kernels/__init__.py", True, False),
        ("csrc/core/status.cc", True, True),
        ("CMakeLists.txt", True, True),
        ("recipe/build.sh", True, True),
        ("cmake/Options.cmake", True, True),
        ("src/vllm_cuda_plan/listed.txt", False, False),
    ],
)
def test_a_source_file_changes_exactly_the_builds_that_use_it(
    tmp_path: Path, file: str, core: bool, cpu: bool
) -> None:
    root = support.checkout(tmp_path / "checkout")
    before = outputs(root)
    path = root / file
    path.write_text(path.read_text() + "\n# changed\n")
    after = outputs(root)
    for job in JOBS:
        keys = {
            name: staging_key(before[job.name, name]) != staging_key(after[job.name, name])
            for name in ("vllm-core", "vllm-kernels-cpu")
        }
        assert keys == {"vllm-core": core, "vllm-kernels-cpu": cpu}
        changed = {
            name
            for name in ("vllm-core", "vllm-kernels-cpu", "vllm-kernels")
            if before[job.name, name].file_name != after[job.name, name].file_name
        }
        # vllm-kernels-cpu pins vllm-core exactly, so its package follows a new core.
        expected = (
            {"vllm-core", "vllm-kernels-cpu"} if core else {"vllm-kernels-cpu"} if cpu else set()
        )
        assert changed == expected


def test_a_name_stands_for_one_content() -> None:
    """A toolchain, a dependency or a test in the package: what is built again has a new name."""
    old, new = outputs(ROOT, "one"), outputs(ROOT, "two")
    for key, output in old.items():
        assert output.file_name != new[key].file_name
        assert output.fingerprint != new[key].fingerprint
        if output.staging:
            assert staging_key(output) != staging_key(new[key])


def test_recipe_edits_touch_only_what_they_change(tmp_path: Path) -> None:
    root = support.checkout(tmp_path / "checkout")
    before = outputs(root)
    path = root / "recipe" / "recipe.yaml"
    path.write_text(path.read_text().replace("        - libgomp\n", "        - libgomp >=7\n"))
    after = outputs(root)
    changed = {key[1] for key in before if before[key].fingerprint != after[key].fingerprint}
    assert changed == {"vllm-kernels-cpu"}


def test_package_tests_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    root = support.checkout(tmp_path / "checkout")
    before = outputs(root)
    (root / "recipe" / "tests" / "check_cpu.py").write_text("raise SystemExit(1)\n")
    after = outputs(root)
    key = (JOBS[0].name, "vllm-kernels-cpu")
    assert before[key].file_name == after[key].file_name
    assert before[key].fingerprint != after[key].fingerprint


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real checkout, to edit."""
    root = tmp_path_factory.mktemp("copy")
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout.split("\0")
    for name in names:
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    return root


@pytest.mark.parametrize(
    ("file", "tested_again"),
    [
        ("src/vllm_conda/errors.py", set()),
        ("tests/kernels/cuda/test_norm.py", {"vllm-kernels-cuda"}),
        ("tests/kernels/conftest.py", {"vllm-kernels-cuda", "vllm-deepgemm", "vllm-flashmla"}),
        ("tests/kernels/cuda/test_mla.py", {"vllm-kernels-cuda", "vllm-flashmla"}),
        ("tests/kernels/cuda/test_mqa_logits.py", {"vllm-kernels-cuda", "vllm-deepgemm"}),
        ("tests/kernels/cpu/test_norm.py", set()),
        ("pyproject.toml", set()),
        ("targets.toml", set()),
    ],
)
def test_an_edit_of_the_toolkit_or_of_a_test_compiles_nothing(
    copy: Path, file: str, tested_again: set[str]
) -> None:
    jobs = select(TARGETS, ("linux-64-cpu-x86-64-v3", "linux-64-cuda-13.0-all"))
    before = outputs(copy, jobs=jobs)
    text = (copy / file).read_text()
    try:
        (copy / file).write_text(f"{text}\n# changed\n")
        after = outputs(copy, jobs=jobs)
    finally:
        (copy / file).write_text(text)
    for key, output in before.items():
        assert output.file_name == after[key].file_name
        assert staging_key(output) == staging_key(after[key])
    changed = {key[1] for key in before if before[key].fingerprint != after[key].fingerprint}
    assert changed == tested_again


# One of the general package, and every family that has a package of its own.
EDITED = [
    "norm",
    *(name for name, one in load_table().families.items() if one.component != GENERAL),
]


@pytest.mark.parametrize("family", EDITED)
def test_an_edit_of_a_family_compiles_its_package_alone(copy: Path, family: str) -> None:
    jobs = select(TARGETS, ("linux-64-cuda-13.0-all",))
    before = outputs(copy, jobs=jobs)
    file = copy / "csrc" / "cuda" / family / "binding.cc"
    text = file.read_text()
    try:
        file.write_text(f"{text}\n// changed\n")
        after = outputs(copy, jobs=jobs)
    finally:
        file.write_text(text)
    changed = {key[1] for key in before if staging_key(before[key]) != staging_key(after[key])}
    assert changed == {package_of(load_table().families[family].component)}


def test_a_filter_that_is_no_subfolder_is_refused(copy: Path) -> None:
    path = copy / "recipe" / "recipe.yaml"
    text = path.read_text()
    for wrong in ("mla/*.cu", "nothing/**"):
        path.write_text(text.replace("- mla/**", f"- {wrong}"))
        try:
            with pytest.raises(RecipeError, match="filter"):
                load_recipe(copy)
        finally:
            path.write_text(text)


def test_a_package_for_one_kind_of_gpu_compiles_its_slice() -> None:
    jobs = select(TARGETS, ("linux-64-cuda-13.0-all", "linux-64-cuda-13.0-sm90"))
    found = outputs(ROOT, jobs=jobs)
    for name, package in TARGETS.packages.items():
        if package.slice:
            made = [output for key, output in found.items() if key[1] == name]
            assert len({output.file_name for output in made}) == 1
            (staging,) = made[0].rendered.recipe.staging_caches
            script = staging.to_dict()["build"]["script"]
            assert script["env"]["VLLM_CUDA_ARCHS"] == package.slice


def test_linking_rules_hold_for_every_output() -> None:
    for output in outputs(ROOT).values():
        linking = output.rendered.recipe.build.to_dict()["dynamic_linking"]
        assert linking["overlinking_behavior"] == "error"
        assert linking["overdepending_behavior"] == "error"
        assert linking["missing_dso_allowlist"] == ["*/libcuda.so.*"]
        assert all(not path.startswith("/") for path in linking["rpaths"])


def test_core_is_python_version_independent_and_cpu_has_no_python_dependency() -> None:
    found = outputs(ROOT)
    core = found[JOBS[0].name, "vllm-core"]
    assert core.rendered.recipe.build.to_dict()["python"]["version_independent"] is True
    assert set(core.run) == {"python >=3.10", "pytorch >=2.11", "libtorch >=2.11"}
    cpu = found[JOBS[0].name, "vllm-kernels-cpu"]
    pin = f"vllm-core =={core.version} {core.build_string}"
    assert cpu.run == (pin, "libtorch >=2.11", "libgomp")


def test_every_library_output_carries_tests() -> None:
    for output in recipe_data()["outputs"]:
        if "package" in output:
            assert output["tests"], output["package"]["name"]
    for name in ("check_core.py", "check_cpu.py"):
        assert (ROOT / "recipe" / "tests" / name).is_file()


def test_secrets_keep_machine_settings_out_of_the_key() -> None:
    for output in recipe_data()["outputs"]:
        if "staging" in output:
            script = output["build"]["script"]
            assert script["secrets"] == ["VLLM_CONDA_BUILD_SETTINGS"]
            assert not {"MAX_JOBS", "CCACHE_DIR"} & set(script["env"])


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("outputs: [", "not valid YAML"),
        ("schema_version: 1\n", "recipe.yaml"),
        ("recipe: {name: x}\noutputs:\n  - pakage: {name: y}\n", "recipe.yaml"),
    ],
)
def test_malformed_recipe(tmp_path: Path, text: str, part: str) -> None:
    root = support.checkout(tmp_path / "checkout")
    (root / "recipe" / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError, match=part):
        load_recipe(root)


def test_recipe_that_does_not_render(tmp_path: Path) -> None:
    root = support.checkout(tmp_path / "checkout")
    path = root / "recipe" / "recipe.yaml"
    path.write_text(path.read_text().replace('compiler("cxx")', 'compilr("cxx")'))
    with pytest.raises(RecipeError, match=r"does not render for linux-64-cpu.*compilr"):
        outputs(root)


def test_missing_source(tmp_path: Path) -> None:
    root = support.checkout(tmp_path / "checkout")
    (root / "LICENSE").unlink()
    with pytest.raises(RecipeError, match=r"'core-build' names the source \.\./LICENSE"):
        load_recipe(root)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("microarch_levle: ['3']\n", ["unknown key 'microarch_levle'", "'microarch_level'?"]),
        ("microarch_level: 3\n", ["microarch_level must be a list of one string, got 3"]),
        ("microarch_level: ['3']\n", ["target_platform is missing"]),
        ("- a\n", ["holds no mapping"]),
        ("a: [\n", ["not valid YAML"]),
    ],
)
def test_malformed_variant_file(tmp_path: Path, text: str, parts: list[str]) -> None:
    job: Job = JOBS[0]
    (tmp_path / "variants").mkdir()
    (tmp_path / job.variant_file).write_text(text)
    with pytest.raises(ConfigError, match=job.name) as caught:
        variant_values(tmp_path, job, variant_file(TARGETS, job))
    for part in parts:
        assert part in str(caught.value)


def test_the_range_of_engines_is_the_tables(tmp_path: Path) -> None:
    for file in (Path("recipe"), table.FILE.parent):
        shutil.copytree(ROOT / file, tmp_path / file)
    recipe = tmp_path / RECIPE_FILE
    wanted = table.load(ROOT).range()
    recipe.write_text(recipe.read_text().replace(wanted, ">=0.1,<0.2"))
    with pytest.raises(RecipeError, match=rf"engine_range is >=0.1,<0.2, .* has {wanted}"):
        check_context(tmp_path, TARGETS)
    (core,) = (
        one for one in recipe_data()["outputs"] if one.get("package") == {"name": "vllm-core"}
    )
    assert "vllm-engine ${{ engine_range }}" in core["requirements"]["run_constraints"]


def test_the_packaged_engine_is_in_the_table(tmp_path: Path) -> None:
    shutil.copytree(ROOT / table.FILE.parent, tmp_path / table.FILE.parent)
    engine = dataclasses.replace(TARGETS.engine, release="0.1.2")
    with pytest.raises(RecipeError, match=r"release 0.1.2 is not in .*engines.tsv"):
        check_context(tmp_path, dataclasses.replace(TARGETS, engine=engine))
