"""VLLM_TARGET_DEVICE=cuda: which architectures each file is compiled for, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from configuring import NEEDS_CMAKE, make_prefix, message_of

from vllm_conda import platforms
from vllm_conda.targets import load_targets
from vllm_cuda_plan.arch import Code

ROOT = Path(__file__).parents[2]
NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
FLAG = re.compile(r"arch=compute_(\d+[af]?),code=(sm|compute)_(\d+[af]?)")

pytestmark = [
    pytest.mark.slow,
    NEEDS_CMAKE,
    pytest.mark.skipif(NVCC is None, reason="needs nvcc, in PATH or /usr/local/cuda/bin"),
]

Configure = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Just enough of PyTorch and CUTLASS to configure against."""
    folder = tmp_path_factory.mktemp("prefix")
    return make_prefix(folder, {"include/cutlass/cutlass.h": ""})


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all: looking for the compiler takes most of a configure run."""
    return tmp_path_factory.mktemp("build")


@pytest.fixture
def configure(build: Path, prefix: Path) -> Configure:
    shared = build

    def run(
        *definitions: str, source: Path = ROOT, build: Path = shared, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        wanted = {
            "VLLM_CUDA_ARCHS": "",
            "VLLM_CUDA_FAMILIES": "norm",
            "VLLM_CUTLASS_SRC_DIR": "",
            "MAX_JOBS": "2",
            "NVCC_THREADS": "",
            "CMAKE_CUDA_ARCHITECTURES": "",
            **dict(text.split("=", 1) for text in definitions),
        }
        command = ["cmake", "-S", source, "-B", build, "-G", "Ninja", "-DVLLM_TARGET_DEVICE=cuda"]
        command += [f"-DCMAKE_PREFIX_PATH={prefix}", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
        command += [f"-DCMAKE_CUDA_COMPILER={NVCC}", *[f"-D{k}={v}" for k, v in wanted.items()]]
        clean = {
            name: value
            for name, value in os.environ.items()
            if name not in ("TORCH_CUDA_ARCH_LIST", "CUDAARCHS", "NVCC_THREADS", "MAX_JOBS")
        }
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env={**clean, **environment}
        )

    return run


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the CUDA build reads, to plant faults in."""
    copy = tmp_path_factory.mktemp("sources")
    for name in ("cmake", "csrc/core", "csrc/cuda", "csrc/torch", "src/vllm_cuda_plan"):
        shutil.copytree(ROOT / name, copy / name)
    for name in ("CMakeLists.txt", "targets.toml"):
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.mark.parametrize(
    ("gone", "new", "sentence"),
    [
        ("norm/binding.cc", "", "csrc/cuda/norm has no binding.cc, without which nothing calls"),
        (
            "",
            "norm/norm_tma.cu",
            "files *_tma.cu, but csrc/cuda/norm/family.toml has no [parts.tma]",
        ),
        (
            "",
            "norm/norm_sm91.cu",
            "vllm-kernels: csrc/cuda/norm has files *_sm91.cu, but csrc/cuda/norm/family.toml has "
            "no [parts.sm91]. List it there",
        ),
        (
            "",
            "softmax/binding.cc",
            "there is no family softmax (csrc/cuda/softmax/family.toml) in the generated table. "
            "Write family.toml where it is missing, and run `vllm-conda generate`",
        ),
    ],
)
def test_family_without_a_piece(
    configure: Configure,
    sources: Path,
    gone: str,
    new: str,
    sentence: str,
) -> None:
    cuda = sources / "csrc/cuda"
    kept = (cuda / gone).read_text() if gone else ""
    if gone:
        (cuda / gone).unlink()
    if new:
        (cuda / new).parent.mkdir(exist_ok=True)
        (cuda / new).touch()
    try:
        result = configure(source=sources, build=sources / "build")
    finally:
        if gone:
            (cuda / gone).write_text(kept)
        if new:
            (cuda / new).unlink()
    assert result.returncode != 0
    assert sentence in message_of(result)


def commands(build: Path, pattern: str) -> dict[str, list[str]]:
    """Codes that each CUDA file is compiled for: ``sm_90a``, ``compute_90`` for PTX."""
    found = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        if entry["file"].endswith(".cu") and re.search(pattern, entry["file"]):
            codes = [f"{kind}_{to}" for _, kind, to in FLAG.findall(entry["command"])]
            found[Path(entry["file"]).name] = codes
    assert found, pattern
    return found


@pytest.mark.parametrize(
    ("definitions", "environment", "wanted"),
    [
        (["VLLM_CUDA_ARCHS=8.0;9.0a"], {}, ["sm_80", "sm_90a"]),
        (["VLLM_CUDA_ARCHS=8.0 9.0+PTX"], {}, ["sm_80", "sm_90", "compute_90"]),
        (["CMAKE_CUDA_ARCHITECTURES=80-real;90a-real"], {}, ["sm_80", "sm_90a"]),
        (["CMAKE_CUDA_ARCHITECTURES=90"], {}, ["sm_90", "compute_90"]),
        ([], {"TORCH_CUDA_ARCH_LIST": "8.0;8.9+PTX"}, ["sm_80", "sm_89", "compute_89"]),
        ([], {"CUDAARCHS": "86-real;90-virtual"}, ["sm_86", "compute_90"]),
        # conda's activation always sets the last
        ([], {"CUDAARCHS": "86", "TORCH_CUDA_ARCH_LIST": "8.0"}, ["sm_80"]),
        (["VLLM_CUDA_ARCHS=9.0"], {"TORCH_CUDA_ARCH_LIST": "8.0"}, ["sm_90"]),
    ],
)
def test_request(
    configure: Configure,
    build: Path,
    definitions: list[str],
    environment: dict[str, str],
    wanted: list[str],
) -> None:
    result = configure(*definitions, **environment)
    assert result.returncode == 0, result.stderr
    for codes in commands(build, "/norm/").values():
        assert codes == wanted


def test_table_decides_per_file(configure: Configure, build: Path) -> None:
    result = configure("VLLM_CUDA_ARCHS=7.5 8.0 9.0+PTX", "VLLM_CUDA_FAMILIES=norm;wna16")
    assert result.returncode == 0, result.stderr
    for codes in commands(build, "/norm/").values():
        assert codes == ["sm_75", "sm_80", "sm_90", "compute_90"]
    for name, codes in commands(build, "/wna16/").items():
        assert "sm_75" not in codes
        assert codes[0] == ("sm_90a" if "_sm90." in name else "sm_80")
    assert "7.5: needs 8.0" in message_of(result)


def test_parts(configure: Configure, build: Path) -> None:
    result = configure("VLLM_CUDA_ARCHS=8.0 9.0+PTX", "VLLM_CUDA_FAMILIES=attention")
    assert result.returncode == 0, result.stderr
    assert "attention 8.0 9.0+PTX; sm90: 9.0a" in message_of(result)
    for name, codes in commands(build, "attention").items():
        assert codes == (["sm_90a"] if "_sm90." in name else ["sm_80", "sm_90", "compute_90"])
    text = (build / "compile_commands.json").read_text()
    assert "-DVK_ATTENTION_SM90" in text
    result = configure("VLLM_CUDA_ARCHS=8.0", "VLLM_CUDA_FAMILIES=attention")
    assert result.returncode == 0, result.stderr
    assert "sm90: needs 9.0a" in message_of(result)
    assert not [name for name in commands(build, "attention") if "_sm90." in name]
    assert "-DVK_ATTENTION_SM90" not in (build / "compile_commands.json").read_text()


def test_hardening_reaches_the_host_compiler(configure: Configure, build: Path) -> None:
    """nvcc hands it on; Debug has no FORTIFY, which needs optimisation."""
    entry = platforms.table()[platforms.host_platform()]
    fortified = "-U_FORTIFY_SOURCE,-D_FORTIFY_SOURCE=2"
    for kind in ("Debug", "Release"):
        result = configure("VLLM_CUDA_ARCHS=9.0a", f"CMAKE_BUILD_TYPE={kind}")
        assert result.returncode == 0, result.stderr
        lines = [
            one["command"]
            for one in json.loads((build / "compile_commands.json").read_text())
            if one["file"].endswith(".cu")
        ]
        assert lines
        for line in lines:
            (words,) = re.findall(r"-Xcompiler=(-Wall\S*)", line)
            assert set(entry.hardening) <= set(words.split(","))
            assert (fortified in words) == (kind == "Release")
    ninja = (build / "build.ninja").read_text()
    for flag in entry.hardening_link:
        assert flag in ninja


def test_summary_for_loader_and_audit(configure: Configure, build: Path) -> None:
    assert configure("VLLM_CUDA_ARCHS=8.0;9.0a").returncode == 0
    summary = json.loads((build / "lib/cuda.json").read_text())
    assert summary["families"]["norm"]["archs"] == ["8.0", "9.0a"]
    assert summary["families"]["norm"]["serves"]["8.6"] == "8.0"
    assert summary["left_out"]["wna16"] == "not in VLLM_CUDA_FAMILIES"


@pytest.mark.parametrize(
    ("definitions", "environment", "parts"),
    [
        (["VLLM_CUDA_ARCHS=6.1"], {}, ["VLLM_CUDA_ARCHS: CUDA architecture '6.1'", "start at"]),
        ([], {"TORCH_CUDA_ARCH_LIST": "8.0;native"}, ["TORCH_CUDA_ARCH_LIST:", "machine's GPU"]),
        (["VLLM_CUDA_FAMILIES=nrom"], {}, ["VLLM_CUDA_FAMILIES", "Did you mean 'norm'?"]),
        (
            ["VLLM_CUDA_FAMILIES=wna16", "VLLM_CUDA_ARCHS=7.5"],
            {},
            ["wna16 cannot be built for 7.5 with CUDA", "it needs 8.0"],
        ),
        (["NVCC_THREADS=two"], {}, ["NVCC_THREADS=two is not a positive number"]),
        (["MAX_JOBS=0"], {}, ["MAX_JOBS=0 is not a positive number"]),
    ],
)
def test_refusals(
    configure: Configure, definitions: list[str], environment: dict[str, str], parts: list[str]
) -> None:
    result = configure(*definitions, **environment)
    assert result.returncode != 0
    for part in parts:
        assert part in message_of(result)


def test_cuda_home_is_where_nvcc_is(tmp_path: Path, prefix: Path) -> None:
    environment = {name: text for name, text in os.environ.items() if name != "CUDACXX"}
    result = subprocess.run(
        [
            *("cmake", "-S", ROOT, "-B", tmp_path / "build", "-DVLLM_TARGET_DEVICE=cuda"),
            f"-DCMAKE_PREFIX_PATH={prefix}",
        ],
        capture_output=True,
        text=True,
        env={**environment, "CUDA_HOME": str(tmp_path / "nowhere")},
    )
    assert result.returncode != 0
    assert "nowhere holds no bin/nvcc" in message_of(result)


def test_arch_that_this_toolkit_cannot_compile(configure: Configure) -> None:
    assert NVCC is not None
    said = subprocess.run([NVCC, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"release (\d+)\.", said)
    assert match
    arch, words = ("7.0", "12.9 is the last") if int(match[1]) >= 13 else ("11.0", "13.0 is the")
    result = configure(f"VLLM_CUDA_ARCHS={arch}")
    assert result.returncode != 0
    assert f"for {arch}" in message_of(result)
    assert words in message_of(result)


def test_table_knows_what_nvcc_compiles() -> None:
    """From 7.0 on, the table and nvcc list the same plain architectures."""
    assert NVCC is not None
    run = [[NVCC, "--version"], [NVCC, "--list-gpu-arch"]]
    said, listed = (subprocess.check_output(command, text=True) for command in run)
    match = re.search(r"release (\d+\.\d+)", said)
    assert match
    numbers = [int(word.removeprefix("compute_")) for word in listed.split()]
    offered = {f"{number // 10}.{number % 10}" for number in numbers if number >= 70}
    table = load_targets(ROOT).cuda
    assert offered == {name for name in table.archs if table.compiles(match[1], Code(name))}


def test_threads_of_nvcc_leave_jobs_alone(configure: Configure, build: Path) -> None:
    assert "2 of nvcc at once" in message_of(configure("VLLM_CUDA_ARCHS=8.0;9.0"))
    result = configure("VLLM_CUDA_ARCHS=8.0;9.0", "NVCC_THREADS=2")
    assert "2 of nvcc at once (2048 MiB each" in message_of(result)
    assert "--threads=2" in (build / "compile_commands.json").read_text()


def test_no_network_is_named_in_the_build_files() -> None:
    """Externals are found, never fetched."""
    for path in [ROOT / "CMakeLists.txt", *(ROOT / "cmake").glob("*.cmake")]:
        text = path.read_text()
        for word in ("FetchContent", "ExternalProject", "file(DOWNLOAD", "https://"):
            assert word not in text, f"{path.name}: {word}"
