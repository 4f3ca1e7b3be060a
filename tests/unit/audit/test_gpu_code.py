"""GPU code of a library against what its package declares."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from planted import conda, needs_compiler

from vllm_conda.audit.cuda import check_declared
from vllm_conda.audit.fatbin import GpuCode, parse_fatbin, read_gpu_code
from vllm_conda.audit.run import Request, audit
from vllm_conda.audit.settings import Budget, Settings
from vllm_conda.errors import AuditFailure
from vllm_conda.targets import load_targets
from vllm_cuda_plan.arch import Code, parse_code

ROOT = Path(__file__).resolve().parents[3]
PTX, MACHINE = 1, 2
LIBRARY = "lib/vllm_kernels/libvllm_kernels_cuda_norm.so"
NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def entry(kind: int, text: str, payload: bytes = b"\0" * 16) -> bytes:
    code = parse_code(text)
    flags = {"": 0, "a": 0x100000, "f": 0x200000}[code.suffix] | 0x11
    number = int(code.capability.replace(".", ""))
    header = struct.pack(
        "<HHIQIIHHIIIQQQ", kind, 0x101, 64, len(payload), 0, 0, 8, 1, number, 0, 0, flags, 0, 0
    )
    return header + payload


def container(*entries: bytes) -> bytes:
    body = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def codes(*words: str) -> frozenset[Code]:
    return frozenset(parse_code(word) for word in words)


def test_entries_of_several_containers() -> None:
    data = container(entry(MACHINE, "8.0"), entry(PTX, "8.0")) + b"\0" * 8
    data += container(entry(MACHINE, "9.0a"), entry(MACHINE, "12.0f", b"\1" * 40))
    assert parse_fatbin(data, "x") == GpuCode(codes("8.0", "9.0a", "12.0f"), codes("8.0"))


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"\1" * 32, "no container at byte 0"),
        (container(entry(MACHINE, "8.0"))[:-8], "a container ends at byte"),
        (container(entry(7, "8.0")), "an entry of kind 7"),
        (container(entry(MACHINE, "8.0"))[:12], "damaged"),
    ],
)
def test_damaged_section(data: bytes, part: str) -> None:
    with pytest.raises(AuditFailure, match=part):
        parse_fatbin(data, "lib.so")


@pytest.mark.parametrize(
    ("machine", "ptx", "wanted"),
    [
        (("9.0a",), (), []),
        (("9.0",), (), ["machine code for 9.0a is declared and missing", "9.0 is not declared"]),
        ((), (), ["machine code for 9.0a is declared and missing"]),
        (("8.0", "9.0a"), (), ["machine code for 8.0 is not declared"]),
        (("9.0a",), ("9.0",), ["PTX for 9.0 is not declared"]),
    ],
)
def test_both_ways(machine: tuple[str, ...], ptx: tuple[str, ...], wanted: list[str]) -> None:
    found = {LIBRARY: GpuCode(codes(*machine), codes(*ptx))}
    said = [one.message for one in check_declared(found, {LIBRARY: (codes("9.0a"), codes())})]
    assert len(said) == len(wanted)
    for message, part in zip(said, wanted, strict=True):
        assert part in message


def test_library_on_one_side_only() -> None:
    code = GpuCode(codes("9.0a"), codes())
    assert "does not name it" in next(check_declared({LIBRARY: code}, {})).message
    declared = {LIBRARY: (codes("9.0a"), codes())}
    assert "has no GPU code" in next(check_declared({}, declared)).message
    assert list(check_declared({}, {LIBRARY: (codes(), codes())})) == []  # host code alone


def library_with(data: bytes, folder: Path) -> bytes:
    (folder / "fatbin").write_bytes(data)
    built = folder / "built.so"
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(built)]
    code = f'__asm__(".section .nv_fatbin, \\"a\\"\\n.incbin \\"{folder}/fatbin\\"\\n");'
    subprocess.run(command, input=code, text=True, check=True)
    return built.read_bytes()


def summary(archs: list[str], request: str = "9.0a", cuda: str = "13.0") -> bytes:
    family = {
        "title": "", "library": "libvllm_kernels_cuda_norm.so", "archs": archs, "ptx": [],
        "parts": {}, "serves": {}, "without": {}, "parts_left_out": {},
    }  # fmt: skip
    data = {"schema": 1, "cuda": cuda, "driver": "", "request": request}
    return json.dumps({**data, "families": {"norm": family}, "left_out": {}}).encode()


def messages(tmp_path: Path, files: dict[str, bytes]) -> list[str]:
    path = conda(tmp_path, files, name="vllm-kernels-cuda")
    settings = Settings(budgets={"vllm-kernels-cuda": Budget(1, 1)})
    request = Request(checks=("cuda",), settings=settings, targets=load_targets(ROOT))
    return [one.message for one in audit([path], request).packages[0].findings]


@needs_compiler
def test_package(tmp_path: Path) -> None:
    built = library_with(container(entry(MACHINE, "9.0a")), tmp_path)
    place = "lib/vllm_kernels/cuda.json"
    assert messages(tmp_path, {LIBRARY: built, place: summary(["9.0a"])}) == []
    said = messages(tmp_path, {LIBRARY: built, place: summary(["9.0a"], "8.0 9.0a")})
    assert said == ["norm declares 9.0a, PTX none; targets.toml gives 8.0 9.0a, PTX none"]
    said = messages(tmp_path, {LIBRARY: built, place: summary(["9.0a"], "9.9")})
    assert "Unknown CUDA architecture '9.9'" in said[0]
    assert "is damaged" in messages(tmp_path, {LIBRARY: built, place: b"{}"})[0]
    assert "no cuda*.json declares it" in messages(tmp_path, {LIBRARY: built})[0]


@needs_compiler
@pytest.mark.skipif(NVCC is None, reason="needs nvcc, in PATH or /usr/local/cuda/bin")
@pytest.mark.parametrize("mode", ["default", "size", "none"])
def test_what_nvcc_writes(tmp_path: Path, mode: str) -> None:
    source = tmp_path / "k.cu"
    source.write_text("__global__ void k(float* x) { *x *= 2; }\n")
    built = tmp_path / "k.so"
    wanted = ["80", "90a", "100f"]
    flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in wanted]
    assert NVCC is not None
    done = subprocess.run(
        [NVCC, *flags, "-gencode=arch=compute_80,code=compute_80", f"--compress-mode={mode}",
         "-shared", "-Xcompiler=-fPIC", "-cudart=none", "-o", built, source],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "nsupported gpu architecture" in done.stderr or "Unknown option" in done.stderr:
        pytest.skip(f"this nvcc is too old: {done.stderr.strip().splitlines()[0]}")
    if not built.is_file():
        pytest.skip(f"this nvcc links no library: {done.stderr.strip().splitlines()[-1]}")
    assert read_gpu_code(built) == GpuCode(codes("8.0", "9.0a", "10.0f"), codes("8.0"))


def test_library_without_gpu_code(tmp_path: Path) -> None:
    assert read_gpu_code(Path(shutil.which("true") or "/bin/true")) is None


FLASHINFER = "lib/vllm_flashinfer"


def flashinfer_messages(tmp_path: Path, files: dict[str, bytes], built_for: bytes) -> list[str]:
    files = {**files, "info/built_for.json": built_for}
    path = conda(tmp_path, files, name="vllm-flashinfer")
    request = Request(checks=("cuda",), targets=load_targets(ROOT))
    return [one.message for one in audit([path], request).packages[0].findings]


@needs_compiler
def test_flashinfers_modules(tmp_path: Path) -> None:
    def promise(*archs: str) -> bytes:
        code = {"sampling": {"archs": archs, "ptx": []}}
        data = {"schema": 1, "platform": "linux-64", "glibc": "2.28", "libstdcxx": 12}
        return json.dumps({**data, "cuda": code}).encode()

    def declared(*names: str) -> bytes:
        data = {"flashinfer": "0.6.14", "cuda": "13.0", "archs": ["9.0a"], "modules": names}
        return json.dumps(data).encode()

    right = library_with(container(entry(MACHINE, "9.0a")), tmp_path)
    wrong = library_with(container(entry(MACHINE, "8.0")), tmp_path)
    place, module = f"{FLASHINFER}/modules.json", f"{FLASHINFER}/sampling/sampling.so"
    files = {module: right, place: declared("sampling")}
    assert flashinfer_messages(tmp_path, files, promise("9.0a")) == []
    said = flashinfer_messages(tmp_path, files, promise("10.0a"))
    assert said == ["sampling is declared for 9.0a, not built so"]
    said = flashinfer_messages(tmp_path, {**files, module: wrong}, promise("9.0a"))
    assert said == [
        "machine code for 9.0a is declared and missing", "machine code for 8.0 is not declared"
    ]  # fmt: skip
    said = flashinfer_messages(tmp_path, {**files, place: declared()}, promise("9.0a"))
    assert len(said) == 1
    assert "it holds GPU code" in said[0]
    said = flashinfer_messages(tmp_path, {**files, place: b"{}"}, promise("9.0a"))
    assert "it is damaged: it is malformed" in said[0]
    assert "declares it" in flashinfer_messages(tmp_path, {module: right}, promise("9.0a"))[0]
