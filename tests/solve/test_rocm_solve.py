"""The package for AMD GPUs, rendered and built with dummies: who gets it, and who never does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import support
from rattler_build import Package

from vllm_conda.audit import built_for
from vllm_conda.builder import proof
from vllm_conda.errors import SolveError
from vllm_conda.feedstock.config import feedstock_jobs
from vllm_conda.jobs import jobs
from vllm_conda.matrix import packages
from vllm_conda.packages import serving
from vllm_conda.site.describe import describe_machine
from vllm_conda.site.model import parse_site
from vllm_conda.site.virtual import machine_of
from vllm_conda.solve import solve_specs, virtual_packages
from vllm_conda.targets import load_targets

TARGETS = load_targets(support.ROOT)
JOB = next(job for job in jobs(TARGETS) if job.device == "rocm")
CPU = "linux-64-cpu-x86-64-v3"
TORCH = support.DUMMIES["pytorch"][1]
ARCHS = ("9.0.10", "9.4.2", "11.0.0", "12.0.1")


def rocm_dummies(folder: Path) -> str:
    """clang, HIP and PyTorch for ROCm; returns the address."""
    for name, version in (("clangxx", "19.1.7"), ("clang-tools", "19.1.7"), ("lld", "19.1.7")):
        support.build_dummy(folder, name, version, {}, "")
    for hip in ("6.4.3", "7.2.4"):
        support.build_dummy(folder, "hip", hip, {"run_exports": {"weak": ["hip"]}}, "")
    needs = {"run": [*TORCH, "__amdgpu"]}
    support.build_dummy(folder, "pytorch", "2.13.0", needs, "", "rocm_py312")
    support.build_dummy(folder, "pytorch", "2.13.0", {"run": TORCH}, "", "cpu_py312")
    return folder.as_uri()


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory, dummies: str) -> list[str]:
    folder = tmp_path_factory.mktemp("rocm")
    root = support.checkout(folder / "checkout")
    rocm = rocm_dummies(folder / "toolkit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CONDA_CACHE", str(folder / "cache"))
        patch.setenv("RATTLER_CACHE_DIR", str(folder / "cache" / "rattler"))
        patch.setenv("PYTHONPATH", str(support.ROOT / "src"))
        patch.setenv("CONDA_OVERRIDE_ARCHSPEC", "x86_64_v4")
        # What users set for other builds decides nothing here.
        patch.setenv("PYTORCH_ROCM_ARCH", "gfx94")
        report = support.build(root, (rocm, dummies), (CPU, JOB.name))
    made = ["vllm-core", "vllm-cpu", "vllm-kernels", "vllm-kernels-cpu", "vllm-kernels-rocm"]
    assert sorted(support.names(report.built)) == made
    (rocm_built,) = (one for one in report.built if one.job == JOB.name and "rocm" in one.package)
    assert rocm_built.tests.startswith("not run: this machine has no GPU that gives __amdgpu")
    return [report.channel, rocm, dummies]


def package(channels: list[str]) -> Package:
    folder = Path(channels[0].removeprefix("file://")) / "linux-64"
    (path,) = folder.glob("vllm-kernels-rocm-*.conda")
    return Package.from_file(path)


def solve(channels: list[str], spec: str, *virtual: str) -> dict[str, str]:
    """Name -> build of the solution for a machine with these virtual packages besides its CPU's."""
    machine = ["__archspec=1=x86_64_v4", "__glibc=2.36", "__amdgpu=", "__amdgpu_arch=", "__cuda="]
    found = solve_specs(channels, [spec], "linux-64", virtual_packages([*machine, *virtual]))
    return {record.name.normalized: str(record.build) for record in found}


def test_the_job_makes_core_and_kernels(channels: list[str]) -> None:
    assert packages(TARGETS, JOB) == ("vllm-core", "vllm-kernels-rocm")
    assert JOB not in feedstock_jobs(TARGETS)


def test_package_says_what_it_is(channels: list[str]) -> None:
    made = package(channels)
    assert made.build_string.startswith("hip6_h")
    assert proof.homepage(Path(made.path)).startswith("https://")
    (promise,) = (file for file in made.files if file.endswith("rocm.json"))
    assert promise == "lib/vllm_kernels/rocm.json"
    files = set(made.files)
    assert any(file.endswith("tests/kernels/cuda/test_norm.py") for file in files)
    assert not any("test_attention" in file for file in files)


@pytest.mark.parametrize("arch", ARCHS)
def test_each_of_its_gpus_gets_it(channels: list[str], arch: str) -> None:
    found = solve(channels, "vllm-kernels-rocm", "__amdgpu=0", f"__amdgpu_arch={arch}")
    assert found["vllm-kernels-rocm"].startswith("hip6_")
    assert found["pytorch"].startswith("rocm_")


@pytest.mark.parametrize(
    "virtual",
    [
        (),
        ("__cuda=13.0", "__cuda_arch=9.0"),
        ("__amdgpu=0",),
        ("__amdgpu=0", "__amdgpu_arch=10.3.0"),
        ("__amdgpu=0", "__amdgpu_arch=9.4.0"),
        ("__amdgpu=0", "__amdgpu_arch=11.0.1"),
    ],
    ids=["no GPU", "NVIDIA", "client without targets", "gfx1030", "gfx940", "gfx1101"],
)
def test_no_other_machine_gets_it(channels: list[str], virtual: tuple[str, ...]) -> None:
    with pytest.raises(SolveError, match="__amdgpu"):
        solve(channels, "vllm-kernels-rocm", *virtual)


def test_nobody_gets_it_without_asking(channels: list[str]) -> None:
    found = solve(channels, "vllm-kernels", "__amdgpu=0", "__amdgpu_arch=9.4.2")
    assert "vllm-kernels-cpu" in found
    assert "vllm-kernels-rocm" not in found


def test_other_hip_is_refused(channels: list[str]) -> None:
    virtual = virtual_packages(["__archspec=1=x86_64_v4", "__amdgpu=0", "__amdgpu_arch=9.4.2"])
    specs = ["vllm-kernels-rocm", "hip 7.*"]
    with pytest.raises(SolveError, match="hip"):
        solve_specs(channels, specs, "linux-64", virtual)


def test_machine_describes_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDA_OVERRIDE_AMDGPU", "0")
    monkeypatch.setenv("CONDA_OVERRIDE_AMDGPU_ARCH", "9.0.10")
    text = describe_machine()
    assert "    amdgpu: gfx90a\n" in text
    (node,) = parse_site(text, "site.yaml").nodes.values()
    assert machine_of(node)["__amdgpu_arch"] == "9.0.10"


def test_nothing_serves_on_it() -> None:
    assert serving(JOB.device) == ""


def test_targets_are_in_what_it_was_built_for(tmp_path: Path) -> None:
    folder = tmp_path / "lib" / "vllm_kernels"
    folder.mkdir(parents=True)
    (folder / "rocm.json").write_text("{}")
    promise = built_for.describe(TARGETS, "linux-64", None, tmp_path)
    assert promise.rocm == TARGETS.rocm.archs
    (tmp_path / "info").mkdir()
    built_for.write(tmp_path, promise)
    text = (tmp_path / built_for.FILE).read_text()
    assert json.loads(text)["rocm"] == list(TARGETS.rocm.archs)
    assert built_for.read(text.encode()) == promise
