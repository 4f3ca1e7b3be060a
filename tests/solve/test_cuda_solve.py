"""Which package a machine with or without a GPU gets, under CUDA's virtual packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import support
from rattler.package_streaming import extract
from rattler_build import Package

SCRIPT = Path(__file__).with_name("solve_profile.py")
JOBS = (
    "linux-64-cpu-x86-64-v3",
    "linux-64-cuda-12.4-all",
    "linux-64-cuda-13.0-all",
    "linux-64-cuda-13.0-sm90",
)


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory, dummies: str) -> list[str]:
    """The output of a build of CPU and CUDA jobs with dummy compilers, and their channels."""
    folder = tmp_path_factory.mktemp("cuda")
    root = support.checkout(folder / "checkout")
    cuda = support.cuda_dummies(folder / "toolkits", ["12.4", "13.0"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CONDA_CACHE", str(folder / "cache"))
        patch.setenv("RATTLER_CACHE_DIR", str(folder / "cache" / "rattler"))
        patch.setenv("PYTHONPATH", str(support.ROOT / "src"))
        patch.setenv("CONDA_OVERRIDE_ARCHSPEC", "x86_64_v4")
        patch.delenv("CONDA_OVERRIDE_CUDA", raising=False)
        report = support.build(root, (cuda, dummies), JOBS)
    made = ["vllm-core", "vllm-cpu", *["vllm-cuda"] * 2, *["vllm-deepgemm"] * 2]
    made += ["vllm-flashmla"] * 2
    made += [*["vllm-kernels"] * 3, "vllm-kernels-cpu", *["vllm-kernels-cuda"] * 3]
    assert sorted(support.names(report.built)) == made
    return [report.channel, cuda, dummies]


def test_gpu_tests_travel_in_the_package(channels: list[str]) -> None:
    """They are no sources of the build that compiles, and yet in the package."""
    folder = Path(channels[0].removeprefix("file://")) / "linux-64"
    for path in folder.glob("vllm-kernels-cuda-*.conda"):
        files = Package.from_file(path).files
        for name in ("conftest.py", "common/listed.txt", "cuda/listed.txt"):
            assert any(file.endswith(f"tests/kernels/{name}") for file in files), name


def solve(
    channels: list[str], specs: list[str], cuda: str = "", arch: str = ""
) -> dict[str, dict[str, Any]] | str:
    """The chosen packages, or the solver's reason."""
    words = [sys.executable, str(SCRIPT), "--archspec", "x86_64_v4"]
    for channel in channels:
        words += ["--channel", channel]
    for spec in specs:
        words += ["--spec", spec]
    for name, version in (("__cuda", cuda), ("__cuda_arch", arch)):
        if version:
            words += ["--virtual", f"{name}={version}"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment)
    if done.returncode:
        assert done.returncode == 1, done.stderr
        return done.stdout
    packages: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return packages


def chosen(channels: list[str], spec: str, cuda: str = "", arch: str = "") -> dict[str, Any]:
    found = solve(channels, [spec], cuda, arch)
    assert isinstance(found, dict), found
    return found


def refused(channels: list[str], spec: str, cuda: str = "", arch: str = "") -> str:
    found = solve(channels, [spec], cuda, arch)
    assert isinstance(found, str), found
    return found


def test_driver_chooses_the_cuda_version(channels: list[str]) -> None:
    for cuda, wanted in (("13.0", "cuda130_all"), ("13.5", "cuda130_all"), ("12.2", "cuda124_all")):
        package = chosen(channels, "vllm-kernels-cuda", cuda, "9.0")["vllm-kernels-cuda"]
        assert package["build"].startswith(wanted), cuda
        assert package["build_number"] == 100000 + 100 * int(wanted[4:7])


def test_without_a_gpu_there_is_none(channels: list[str]) -> None:
    assert "__cuda" in refused(channels, "vllm-kernels-cuda")


def test_metapackage_prefers_the_gpu(channels: list[str]) -> None:
    found = chosen(channels, "vllm-kernels", "13.0", "9.0")
    assert "vllm-kernels-cuda" in found
    assert "cuda" in found["pytorch"]["build"]
    found = chosen(channels, "vllm-kernels")
    assert "vllm-kernels-cpu" in found
    assert "vllm-kernels-cuda" not in found


def test_both_devices_in_one_environment(channels: list[str]) -> None:
    found = solve(channels, ["vllm-kernels-cuda", "vllm-kernels-cpu"], "13.0", "9.0")
    assert isinstance(found, dict), found
    core = f"vllm-core =={found['vllm-core']['version']} {found['vllm-core']['build']}"
    assert core in found["vllm-kernels-cuda"]["depends"]
    assert core in found["vllm-kernels-cpu"]["depends"]


def test_slice_is_for_its_gpu_alone(channels: list[str]) -> None:
    spec = "vllm-kernels-cuda * *_sm90_*"
    found = chosen(channels, spec, "13.0", "9.0")
    assert found["vllm-kernels-cuda"]["build"].startswith("cuda130_sm90_")
    for arch in ("8.0", "8.9", "10.0", "12.0"):
        assert "__cuda_arch" in refused(channels, spec, "13.0", arch)
    # A client that does not know the virtual package must not install it.
    assert "__cuda_arch" in refused(channels, spec, "13.0")


def test_slices_are_opt_in(channels: list[str]) -> None:
    found = chosen(channels, "vllm-kernels-cuda", "13.0", "9.0")
    assert "_all_" in found["vllm-kernels-cuda"]["build"]


def test_gpu_older_than_every_build(channels: list[str]) -> None:
    assert "__cuda_arch" in refused(channels, "vllm-kernels-cuda", "13.0", "7.0")
    # Where the client does not say which GPU it is, the loader does.
    assert "vllm-kernels-cuda" in chosen(channels, "vllm-kernels-cuda", "13.0")


OPTIONAL = ("vllm-deepgemm", "vllm-flashmla")


@pytest.mark.parametrize("name", OPTIONAL)
@pytest.mark.parametrize(("cuda", "wanted"), [("13.0", "cuda130_"), ("12.4", "cuda124_")])
def test_optional_packages_are_for_hopper_alone(
    channels: list[str], name: str, cuda: str, wanted: str
) -> None:
    found = chosen(channels, name, cuda, "9.0")
    assert found[name]["build"].startswith(wanted)
    core = f"vllm-core =={found['vllm-core']['version']} {found['vllm-core']['build']}"
    assert core in found[name]["depends"]
    # A100, RTX 5090, and a client that does not say which GPU it is.
    for arch in ("8.0", "12.0", ""):
        assert "__cuda_arch" in refused(channels, name, cuda, arch)
    assert "__cuda" in refused(channels, name)


def test_optional_packages_beside_the_general_kernels(channels: list[str]) -> None:
    found = solve(channels, [*OPTIONAL, "vllm-kernels"], "13.0", "9.0")
    assert isinstance(found, dict), found
    assert {*OPTIONAL, "vllm-kernels-cuda"} <= found.keys()


def test_the_general_package_compiles_no_family_of_another(
    channels: list[str], tmp_path: Path
) -> None:
    folder = Path(channels[0].removeprefix("file://")) / "linux-64"
    (path, *_) = sorted(folder.glob("vllm-kernels-cuda-*.conda"))
    extract(path, tmp_path)
    held = (tmp_path / "lib/vllm_kernels/libvllm_kernels_cuda_norm.so").read_text()
    assert "binding of norm" in held
    assert "binding of mla" not in held
    assert "binding of mqa_logits" not in held
