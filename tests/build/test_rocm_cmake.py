"""VLLM_TARGET_DEVICE=rocm: what is compiled for which gfx targets, and what is refused.

A script stands for clang, which configuring asks but does not compile with.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from configuring import NEEDS_CMAKE, make_prefix

from vllm_conda.targets import load_targets

ROOT = Path(__file__).parents[2]
ROCM = load_targets(ROOT).rocm
CLANG = """#!/bin/sh
for word; do
  case "$word" in
    -print-supported-cpus) echo "{known}"; exit 0 ;;
    -print-prog-name=*) echo "{tools}/${{word#*=}}"; exit 0 ;;
    *.hip) compile=1 ;;
  esac
done
# What CMake looks for in what its test program is compiled to.
test -z "$compile" || cat > a.out <<'END'
INFO:compiler[Clang]
INFO:compiler_version[{version}]
INFO:platform[Linux]
END
"""

KNOWN = " ".join(ROCM.archs)

pytestmark = NEEDS_CMAKE
Configure = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """Just enough of PyTorch, HIP and LLVM to configure against."""
    folder = tmp_path / "prefix"
    files = {
        "include/hip/hip_runtime_api.h": "",
        "include/hip/hip_version.h": "#define HIP_VERSION_MAJOR 6\n#define HIP_VERSION_MINOR 4\n",
        "lib/libamdhip64.so": "",
        "llvm/ld.lld": "",
        "llvm/clang-offload-bundler": "",
    }
    return make_prefix(folder, files)


@pytest.fixture
def configure(tmp_path: Path, prefix: Path) -> Configure:
    def run(
        *definitions: str,
        version: str = "19.1.7",
        known: str = KNOWN,
        **variables: str,
    ) -> subprocess.CompletedProcess[str]:
        clang = tmp_path / "clang++"
        major, minor, patch = version.split(".")
        number = f"{int(major):08}.{int(minor):08}.{int(patch):08}"
        clang.write_text(CLANG.format(known=known, tools=prefix / "llvm", version=number))
        clang.chmod(0o755)
        command = ["cmake", "-S", ROOT, "-B", tmp_path / "build", "-G", "Ninja"]
        command += ["-DVLLM_TARGET_DEVICE=rocm", f"-DCMAKE_PREFIX_PATH={prefix}", "-DMAX_JOBS=1"]
        command += [f"-D{text}" for text in definitions]
        ours = ("PYTORCH_ROCM_ARCH", "ROCM_PATH", "HIPCXX", "HIPFLAGS", "MAX_JOBS")
        clean = {name: value for name, value in os.environ.items() if name not in ours}
        environment = {**clean, "HIPCXX": str(clang), "ROCM_PATH": str(prefix), **variables}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    return run


def message_of(result: subprocess.CompletedProcess[str]) -> str:
    """CMake's error without its line breaks."""
    return " ".join(result.stderr.split())


def summary(tmp_path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((tmp_path / "build/rocm/rocm.json").read_text())
    return found


def test_table_decides_unless_asked(tmp_path: Path, configure: Configure) -> None:
    done = configure()
    assert done.returncode == 0, done.stderr
    assert "gfx targets by targets.toml" in done.stdout
    found = summary(tmp_path)
    assert found["targets"] == list(ROCM.archs)
    assert found["hip"] == "6.4"
    assert found["state"] == "never run on a GPU"
    rules = (tmp_path / "build/build.ninja").read_text()
    assert all(f"--offload-arch={name}" in rules for name in ROCM.archs)


def test_no_path_of_the_machine_is_compiled_in(
    tmp_path: Path, prefix: Path, configure: Configure
) -> None:
    """Of bindings, which include PyTorch's headers, and of kernels."""
    assert configure("VLLM_ROCM_FAMILIES=norm").returncode == 0
    compiled = {}
    text = (tmp_path / "build/build.ninja").read_text()
    for block in text.split("\nbuild ")[1:]:
        if match := re.search(r"^  FLAGS = (.*)$", block, re.MULTILINE):
            compiled[block.split(":")[0]] = match[1]
    (binding,) = (flags for name, flags in compiled.items() if name.endswith("binding.cc.o"))
    assert f"-ffile-prefix-map={prefix}/include=include" in binding
    kernels = [flags for name, flags in compiled.items() if name.endswith(".cu.o")]
    assert kernels
    for flags in (binding, *kernels):
        assert f"-ffile-prefix-map={ROOT}=." in flags
        assert f"-ffile-prefix-map={tmp_path}/build=build" in flags


def test_requests_in_their_order(tmp_path: Path, configure: Configure) -> None:
    assert configure(PYTORCH_ROCM_ARCH="gfx942;gfx90a").returncode == 0
    assert summary(tmp_path)["targets"] == ["gfx90a", "gfx942"]
    assert configure("CMAKE_HIP_ARCHITECTURES=gfx1100", PYTORCH_ROCM_ARCH="gfx942").returncode == 0
    assert summary(tmp_path)["targets"] == ["gfx1100"]
    done = configure("VLLM_ROCM_ARCHS=gfx942", "CMAKE_HIP_ARCHITECTURES=gfx1100")
    assert done.returncode == 0
    assert summary(tmp_path)["targets"] == ["gfx942"]


@pytest.mark.parametrize(
    ("arguments", "sentences"),
    [
        ({"PYTORCH_ROCM_ARCH": "gfx94"}, ["PYTORCH_ROCM_ARCH: Unknown gfx target 'gfx94'",
                                          "Did you mean 'gfx942'?", "Known: gfx908"]),
        ({"PYTORCH_ROCM_ARCH": "9.0"}, ["PYTORCH_ROCM_ARCH: Unknown gfx target '9.0'"]),
        ({"PYTORCH_ROCM_ARCH": "gfx90a:xnack-"}, ["names features", "Write gfx90a."]),
        ({"PYTORCH_ROCM_ARCH": "gfx950"}, ["cannot compile for gfx950 (MI350, MI355)",
                                           "clang 20 is the oldest that can"]),
        ({"version": "16.0.6"}, ["clang 16.0.6", "is too old for HIP; clang 17 or newer"]),
        ({"known": ""}, ["was built without AMD GPUs"]),
    ],
    ids=["misspelt", "no name", "features", "newer", "old clang", "no AMD"],
)  # fmt: skip
def test_refusals(
    tmp_path: Path, configure: Configure, arguments: dict[str, str], sentences: list[str]
) -> None:
    done = configure(**arguments)
    assert done.returncode == 1
    for sentence in sentences:
        assert sentence in message_of(done)
    assert done.stderr.count("CMake Error") == 1
    assert not (tmp_path / "build/build.ninja").exists()


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        ("llvm/ld.lld", "finds no ld.lld, with which it makes GPU code; install lld-19"),
        ("llvm/clang-offload-bundler", "finds no clang-offload-bundler"),
        (
            "include/hip/hip_runtime_api.h",
            "HIP's run time (hip/hip_runtime_api.h and lib",
        ),
        ("lib/libamdhip64.so", "install libamdhip64-dev (Debian) or hip (conda)"),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, prefix: Path, configure: Configure, gone: str, sentence: str
) -> None:
    (prefix / gone).unlink()
    # Whatever this machine has of it.
    system = [f"CMAKE_FIND_ROOT_PATH={prefix}"]
    system += [f"CMAKE_FIND_ROOT_PATH_MODE_{kind}=ONLY" for kind in ("INCLUDE", "LIBRARY")]
    done = configure(*system)
    assert done.returncode == 1
    assert sentence in message_of(done)


def test_no_package_asks_the_gpu_of_its_builder(configure: Configure, tmp_path: Path) -> None:
    done = configure(
        "VLLM_ROCM_ARCHS=native", "VLLM_INSTALL_LAYOUT=conda", f"VLLM_PYTHON_SITE={tmp_path}"
    )
    assert done.returncode == 1
    assert "which no package may depend on; name the gfx targets" in message_of(done)


def test_family_without_code_for_amd(configure: Configure) -> None:
    done = configure("VLLM_ROCM_FAMILIES=attention")
    assert done.returncode == 1
    assert "attention is made of NVIDIA's instructions" in message_of(done)
