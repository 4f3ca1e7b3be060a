"""Both distributions by pip, for real: fresh virtual environments, isolated builds."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from vllm_conda.targets import load_targets

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.network,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ on PATH"),
]


def torch_folder() -> Path:
    """The site-packages folder that holds this interpreter's PyTorch."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        pytest.skip("needs PyTorch in the environment that runs the tests")
    return Path(found.origin).parents[1]


def highway_prefix() -> Path:
    """A prefix whose include folder holds Highway's headers."""
    listed = os.environ.get("CMAKE_PREFIX_PATH", "").split(os.pathsep)
    for prefix in map(Path, [*filter(None, listed), sys.prefix, "/usr"]):
        if (prefix / "include/hwy/highway.h").is_file():
            return prefix
    pytest.skip("needs Highway's headers in CMAKE_PREFIX_PATH, the environment or /usr")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git tracks, so that no build folder of the checkout takes part."""
    folder = tmp_path_factory.mktemp("sources")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    return folder


class Environment:
    """A fresh virtual environment that shares nothing but, if asked, PyTorch's folder."""

    def __init__(self, folder: Path, *, torch: bool) -> None:
        venv.create(folder, with_pip=True)
        self.python = folder / "bin" / "python"
        self.site = next(folder.glob("lib/python*/site-packages"))
        if torch:
            (self.site / "torch_of_the_tests.pth").write_text(f"{torch_folder()}\n")

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "CMAKE_PREFIX_PATH")}
        kept.pop("VLLM_KERNELS_LIBRARY_DIR", None)
        return subprocess.run(
            [str(self.python), *arguments],
            cwd=self.site,
            env={**kept, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    def install(self, sources: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "pip", "install", "--verbose", str(sources), **variables)


@pytest.fixture(scope="module")
def installed(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("env"), torch=True)
    done = environment.install(sources, CMAKE_PREFIX_PATH=str(highway_prefix()))
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return environment


def test_the_doctor_finds_no_problem(installed: Environment) -> None:
    done = installed.run("-m", "vllm_kernels", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["problems"]) == (0, [])
    assert report["version"] == load_targets(ROOT).project.version
    assert report["torch_minimum"] == load_targets(ROOT).project.torch_target
    assert report["backends"] == ["cpu"]
    for library in report["libraries"]:
        assert library["loaded"]
        assert Path(library["path"]).parent == installed.site / "vllm_kernels" / "lib"


def test_the_kernels_agree_with_the_references(installed: Environment) -> None:
    done = installed.run("-m", "vllm_kernels.selftest")
    assert done.returncode == 0, done.stdout + done.stderr


def test_dependencies_are_consistent(installed: Environment) -> None:
    done = installed.run("-m", "pip", "show", "--files", "vllm-kernels")
    assert "vllm_kernels/lib/libvllm_kernels_cpu.so" in done.stdout
    requires = next(line for line in done.stdout.splitlines() if line.startswith("Requires:"))
    assert "torch" in requires
    assert "onednn-cpu-gomp" in requires


def test_the_kernels_bring_no_toolkit(installed: Environment) -> None:
    assert (installed.site / "vllm_kernels_plugin").is_dir()
    for name in ("vllm_conda", "vllm_cuda_plan"):
        assert not (installed.site / name).exists()
    assert not (installed.python.parent / "vllm-conda").exists()


def test_uninstall_leaves_nothing(installed: Environment) -> None:
    done = installed.run("-m", "pip", "uninstall", "--yes", "vllm-kernels")
    assert done.returncode == 0, done.stderr
    left = [path for path in (installed.site / "vllm_kernels").rglob("*") if path.is_file()]
    assert left == []


def test_the_toolkit_alone(sources: Path, tmp_path: Path) -> None:
    """Everything of its packages, with the data files, and none of the kernels."""
    environment = Environment(tmp_path / "env", torch=False)
    toolkit = str(sources / "packages/toolkit")
    done = environment.run("-m", "pip", "install", "--no-deps", toolkit)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("vllm_conda", "vllm_cuda_plan"):
        want = {path.relative_to(sources / "src") for path in (sources / "src" / name).rglob("*.*")}
        got = {path.relative_to(environment.site) for path in (environment.site / name).rglob("*")}
        assert want <= got
    assert not list(environment.site.glob("vllm_kernels*"))
    assert (environment.python.parent / "vllm-conda").is_file()
    shown = environment.run("-m", "pip", "show", "vllm-conda").stdout
    assert f"Version: {load_targets(ROOT).project.version}" in shown


def test_without_torch_the_message_names_the_command(sources: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "env", torch=False)
    done = environment.install(sources, CMAKE_PREFIX_PATH=str(highway_prefix()))
    assert done.returncode != 0
    said = " ".join((done.stdout + done.stderr).split())
    assert "PyTorch 2.11 or newer is missing" in said
    assert "run `pip install torch` first" in said


def test_without_highway_the_message_names_packages(sources: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "env", torch=True)
    done = environment.install(
        sources, SKBUILD_CMAKE_DEFINE="CMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF;HIGHWAY_INCLUDE_DIR="
    )
    assert done.returncode != 0
    said = " ".join((done.stdout + done.stderr).split())
    assert "Highway's headers (hwy/highway.h) are missing; install libhwy (conda)" in said
