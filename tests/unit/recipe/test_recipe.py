"""The recipe rules of docs and design, each shown on the rendered recipe."""

from __future__ import annotations

import json
import re

import pytest
import support
from rendered import JOBS, TARGETS, outputs, recipe_data, staging_key
from support import ROOT, SHARED_SCHEMAS

from vllm_conda.jobs import select
from vllm_conda.recipe import load_recipe

AXES = {
    "core-build": set(),
    "cpu-build": {"microarch_level"},
    "cuda-build": {"cuda_compiler_version", "cuda_slice"},
    "deepgemm-build": {"cuda_compiler_version"},
    "flashmla-build": {"cuda_compiler_version"},
    "rocm-build": {"hip_compiler_version"},
}


def test_recipe_matches_the_schema() -> None:
    data = recipe_data()
    if SHARED_SCHEMAS.is_dir():
        jsonschema = pytest.importorskip("jsonschema")
        schema = json.loads((SHARED_SCHEMAS / "recipe.schema.json").read_text())
        jsonschema.Draft202012Validator(schema).validate(data)
    # Without the schema at hand: rattler-build's own parser refuses unknown keys.
    assert load_recipe(ROOT).stage0.schema_version == 1
    assert data["schema_version"] == 1


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
