"""Jobs: what the table makes of them, filters, costs, and that one line adds an architecture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import support
import yaml
from support import ROOT

from benchmarks.toolkit import bench_jobs
from vllm_conda.cli import main
from vllm_conda.costs import Build, FamilyCost
from vllm_conda.errors import ConfigError, UsageError
from vllm_conda.families import read_families
from vllm_conda.generate import generate, generated_files
from vllm_conda.generate.pages import matrix_page
from vllm_conda.jobs import default_jobs, jobs, select
from vllm_conda.lint import violations
from vllm_conda.matrix import (
    COSTS_FILE,
    NOT_MEASURED,
    Costs,
    load_costs,
    packages,
    rows,
)
from vllm_conda.structure import tomllib
from vllm_conda.targets import Targets, load_targets, parse_targets

TARGETS = load_targets(ROOT)
TEXT = (ROOT / "targets.toml").read_text()


def changed(old: str, new: str) -> Targets:
    """The table with one place edited."""
    assert old in TEXT, "the table has changed"
    return parse_targets(parsed(TEXT.replace(old, new, 1)))


def parsed(text: str) -> dict[str, Any]:
    """The parsed table, with that of the families."""
    data = tomllib.loads(text)
    data["cuda"]["families"] = read_families(ROOT)
    return data


def texts(targets: Targets) -> dict[str, str]:
    return {str(path): text for path, text in generated_files(targets)}


def test_jobs_are_platforms_by_levels_and_by_toolkits_and_slices() -> None:
    for platform, entry in TARGETS.platforms.items():
        mine = [job for job in jobs(TARGETS) if job.platform == platform]
        cpu = [job for job in mine if job.device == "cpu"]
        assert [job.level for job in cpu] == list(entry.levels)
        cuda = [job for job in mine if job.device == "cuda"]
        assert {job.level for job in cuda} <= {entry.levels[0]}
        wanted = {
            v for v, toolkit in TARGETS.cuda.toolkits.items() if platform in toolkit.platforms
        }
        assert {job.cuda for job in cuda} == wanted
        for version in wanted:
            assert f"{platform}-cuda-{version}-all" in {job.name for job in cuda}
    names = [job.name for job in jobs(TARGETS)]
    assert len(set(names)) == len(names)


def test_a_slice_that_the_toolkit_cannot_compile_is_no_job() -> None:
    names = {job.name for job in jobs(TARGETS)}
    assert "linux-64-cuda-13.0-sm100" in names
    assert "linux-64-cuda-12.4-sm100" not in names


def test_packages_of_a_job_are_those_rendered() -> None:
    outputs = support.plan(ROOT).outputs
    for job in jobs(TARGETS):
        assert packages(TARGETS, job) == tuple(o.name for o in outputs if o.job == job)


def test_filters_narrow_and_misspellings_are_named() -> None:
    chosen = select(TARGETS, platforms=["linux-64"], devices=["cuda"], cuda=["13.0"])
    assert {(job.device, job.cuda) for job in chosen} == {("cuda", "13.0")}
    sliced = select(TARGETS, slices=["sm90"], cuda=["12.4"])
    assert all(job.name.endswith("cuda-12.4-sm90") for job in sliced)
    for filters, part in (
        ({"platforms": ["linux-46"]}, "Did you mean 'linux-64'?"),
        ({"devices": ["cud"]}, "Did you mean 'cuda'?"),
        ({"cuda": ["13.5"]}, "Unknown CUDA version '13.5'"),
        ({"slices": ["sm9"]}, "Did you mean 'sm90'?"),
        ({"devices": ["cpu"], "cuda": ["13.0"]}, "No job is all of: cpu 13.0"),
    ):
        with pytest.raises(UsageError) as caught:
            select(TARGETS, **filters)
        assert part in str(caught.value)


def test_a_build_defaults_to_the_cpu_packages_of_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vllm_conda.jobs.host_platform", lambda: "linux-64")
    assert default_jobs(TARGETS) == select(TARGETS, platforms=["linux-64"], devices=["cpu"])
    monkeypatch.setattr("vllm_conda.jobs.host_platform", lambda: "osx-arm64")
    with pytest.raises(ConfigError, match="osx-arm64"):
        default_jobs(TARGETS)


ONE_LINE = {
    "gpu slice": (
        'minimum = "12.4"\n',
        'minimum = "12.4"\nslices.sm86 = { archs = ["8.6"], lowest = "8.6", below = "8.7" }\n',
        "variants/linux-64-cuda-13.0-sm86.yaml",
        'cuda_arch_bound: [">=8.6,<8.7"]',
        "sm86",
    ),
    "gpu architecture": (
        'minimum = "12.4"\n',
        'minimum = "12.4"\narchs."12.9" = { gpus = "G", generation = "Rubin", since = "13.4" }\n',
        "src/vllm_cuda_plan/table.json",
        '"12.9"',
        "",
    ),
    "cpu tier of a level": (
        'tiers = ["avx512", "avx512_bf16", "amx"]',
        'tiers = ["avx512", "avx512_bf16"]',
        "cmake/generated/tiers.cmake",
        "set(VLLM_LEVEL_TIERS_x86_64_4 avx512 avx512_bf16)",
        "| avx512 avx512_bf16 | x86-64-v4 |",
    ),
    "floor of a platform": (
        "levels = [3, 4]",
        "levels = [3]",
        "conda_build_config.yaml",
        'microarch_level:\n  - "3"  # [linux and x86_64]\n',
        "",
    ),
}


@pytest.mark.parametrize("name", ONE_LINE)
def test_one_line_changes_all_that_is_generated(name: str) -> None:
    old, new, path, part, documented = ONE_LINE[name]
    assert abs(new.count("\n") - old.count("\n")) <= 1
    before, after = texts(TARGETS), texts(changed(old, new))
    assert part in after[path]
    assert before.get(path) != after[path]
    assert documented in after["docs/packagers/generated/matrix.md"]


def test_a_new_slice_renders_and_keeps_every_rule(tmp_path: Path) -> None:
    root = support.checkout(tmp_path / "checkout")
    old, new = ONE_LINE["gpu slice"][:2]
    (root / "targets.toml").write_text(TEXT.replace(old, new, 1))
    targets = load_targets(root)
    written = {str(path) for path in generate(root, targets)}
    assert "variants/linux-64-cuda-13.0-sm86.yaml" in written
    outputs = support.plan(root).outputs
    assert not violations(targets, outputs)
    new_ones = [o for o in outputs if o.job.slice == "sm86" and o.name == "vllm-kernels-cuda"]
    # POWER machines have no such GPU.
    assert {o.job.platform for o in new_ones} == {"linux-64", "linux-aarch64"}
    assert len(new_ones) == 2 * len(targets.cuda.toolkits)
    assert all("__cuda_arch >=8.6,<8.7" in output.run for output in new_ones)


def test_a_platform_from_a_planted_table_gets_jobs_and_variants() -> None:
    data = parsed(TEXT)
    data["platforms"]["linux-riscv64"] = {
        **data["platforms"]["linux-64"],
        "family": "riscv64",
        "levels": [23],
        "cross_from": "linux-64",
        "cpu_levels": [
            {"archspec": "riscv64", "words": "riscv64", "compiler": "rv64gc", "level": 20},
            {"archspec": "rva*", "words": "RVA*", "compiler": "rva*u64"},
        ],
    }
    data["levels"]["riscv64"] = {"23": {"tiers": ["rvv"]}}
    data["tiers"]["riscv64"] = {"rvv": {"flags": ["-march=rv64gcv"], "needs": []}}
    data["cuda"]["toolkits"]["13.0"]["platforms"].append("linux-riscv64")
    targets = parse_targets(data)
    names = [job.name for job in jobs(targets) if job.platform == "linux-riscv64"]
    assert names[0] == "linux-riscv64-cpu-rva23u64"
    assert "linux-riscv64-cuda-13.0-all" in names


def test_costs_are_shown_where_measured(tmp_path: Path) -> None:
    assert load_costs(tmp_path).jobs == {}
    job = jobs(TARGETS)[0]
    cost = Build(job.name, 2, {"vllm-core": 30.0}, cpu_seconds=50.0, memory_mib=900)
    machine = {"cpu": "x", "cores": 2, "memory_gib": 24}
    document = {"machine": machine, "cases": [cost.document()]}
    path = tmp_path / COSTS_FILE
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(document))
    found = {row.job: row for row in rows(TARGETS, load_costs(tmp_path))}
    row = found[job]
    assert row.cost is not None
    assert row.cost.memory_mib == 900
    page = texts_with(tmp_path)["docs/packagers/generated/matrix.md"]
    assert "30 s on 2 cores, 50 s of processor time | 900 MiB" in page
    assert page.count(NOT_MEASURED) == 2 * (len(jobs(TARGETS)) - 1)


def texts_with(root: Path) -> dict[str, str]:
    return {str(path): text for path, text in generated_files(TARGETS, load_costs(root))}


def test_costs_of_kernel_families_have_a_table_of_their_own() -> None:
    job = jobs(TARGETS)[0]
    family = FamilyCost(files=3, cpu_seconds=40.4, longest_cpu_seconds=21.0, memory_mib=700)
    families = {"norm": family, "rope": family}
    cost = Build(
        job.name, 2, {"vllm-kernels-cpu": 30.0}, cpu_seconds=50.0, memory_mib=900, families=families
    )
    page = matrix_page(TARGETS, Costs("", {job.name: cost}))
    assert f"## Kernel families of `{job.name}`" in page
    assert "| `norm` | 3 | 40 s | 21 s | 700 MiB |" in page
    assert "| all | 6 | 81 s |  | 900 MiB |" in page


def test_compiles_are_summed_by_family() -> None:
    def row(name: str, cpu: float, memory: int) -> dict[str, Any]:
        output = f"csrc/CMakeFiles/{name}.o"
        return {"output": output, "seconds": 1.0, "cpu_seconds": cpu, "memory_mib": memory}

    found = bench_jobs.families([
        row("vllm_kernels_cuda_norm.dir/x.cu", 3.0, 500),
        row("vllm_kernels_cuda_norm.dir/y.cu", 4.0, 400),
        row("vllm_tier_avx2.dir/moe_gemm/moe_gemm_tier.cc", 1.0, 300),
        row("vllm_core.dir/z.cc", 9.0, 900),
    ])  # fmt: skip
    assert found == {
        "moe_gemm": FamilyCost(files=1, cpu_seconds=1.0, longest_cpu_seconds=1.0, memory_mib=300),
        "norm": FamilyCost(files=2, cpu_seconds=7.0, longest_cpu_seconds=4.0, memory_mib=500),
    }


def test_a_compile_is_recorded(tmp_path: Path) -> None:
    """Its exit code passes through, and what its processes took is one line of the log."""
    log = tmp_path / "log"
    script = ROOT / "benchmarks" / "toolkit" / "measure_compile.py"
    code = "import sys; b'x' * (64 << 20); sys.exit(3)"
    command = [sys.executable, str(script), sys.executable, "-c", code, "-o", "a.o"]
    done = subprocess.run(command, env={**os.environ, "VLLM_COMPILE_LOG": str(log)})
    assert done.returncode == 3
    row = json.loads(log.read_text())
    assert row["output"] == "a.o"
    assert row["memory_mib"] >= 64
    assert 0 < row["cpu_seconds"] < 60


@pytest.mark.parametrize("text", ["{", "[]", '{"machine": {}, "jobs": {"a": 1}}', '{"jbs": {}}'])
def test_malformed_costs_name_the_file_and_its_writer(tmp_path: Path, text: str) -> None:
    path = tmp_path / COSTS_FILE
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"jobs\.json is not what .*bench_jobs writes"):
        load_costs(tmp_path)


def test_measured_jobs_exist() -> None:
    assert set(load_costs(ROOT).jobs) <= {job.name for job in jobs(TARGETS)}


def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--root", str(ROOT)]
    assert main(["matrix", "--json", "--device", "cuda", "--slice", "all", *root]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["device"] for row in found} == {"cuda"}
    for row in found:
        keys = yaml.safe_load((ROOT / row["variant_file"]).read_text())
        assert keys["cuda_compiler_version"] == [row["cuda"]]
    assert main(["render", "--all", "--json", *root]) == 0
    every = json.loads(capsys.readouterr().out)
    assert {row["job"] for row in every} == {job.name for job in jobs(TARGETS)}
    assert main(["render", "--all", "--device", "cpu", *root]) == UsageError.exit_code
    assert "exclude each other" in capsys.readouterr().err
