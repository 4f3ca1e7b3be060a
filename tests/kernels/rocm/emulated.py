"""Families of csrc/cuda, compiled for an emulated AMD GPU with waves of 32 or 64 lanes.

csrc/rocm is compiled as it is, but for ``wave.h`` and ``qualifiers.h``, whose doubles are in
``emulation``. Plain C++ has no ``<<<>>>`` and no ``extern __shared__``: these are rewritten.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from ..common.abi import MAX_DIMS, View

ROOT = Path(__file__).resolve().parents[3]
FOLDER = Path(__file__).parent / "emulation"
CSRC = ROOT / "csrc"
# Another copy of csrc/rocm, with a fault planted in it.
LAYER_VARIABLE = "VLLM_ROCM_LAYER"
# _Float16 in C++; GCC has it from 13 on.
CLANG = next(filter(None, map(shutil.which, ("clang++-19", "clang++-20", "clang++"))), None)
DTYPES = {
    torch.float32: 0,
    torch.bfloat16: 1,
    torch.float16: 2,
    torch.int8: 3,
    torch.uint8: 4,
    torch.int32: 5,
    torch.int64: 6,
    torch.bool: 7,
    torch.float64: 8,
    torch.float8_e4m3fn: 9,
}
_LAUNCH = re.compile(r"([\w:]+(?:<[^;{}]*?>)?)\s*<<<(.+?)>>>\(", re.DOTALL)
_SHARED = re.compile(r"extern __shared__ (?:__align__\(\d+\) )?(.+?) (\w+)\[\];")


def rewritten(text: str) -> str:
    """Device code as plain C++."""
    text = _LAUNCH.sub(r"emulation::Launcher(\1, \2)(", text)
    return _SHARED.sub(r"\1* const \2 = reinterpret_cast<\1*>(emulation::shared);", text)


def compile_family(family: str, folder: Path) -> ctypes.CDLL:
    """The C ABI of a family as a library; skips where there is no clang, or no source."""
    if not CSRC.is_dir():
        pytest.skip("needs the kernels' sources, which packages lack")
    if CLANG is None:
        pytest.skip("needs clang++, which compiles the ROCm kernels, for float16 in C++")
    for name in ("common", family):
        for source in (CSRC / "cuda" / name).rglob("*"):
            if source.suffix in (".cu", ".cuh", ".h", ".cc", ".in"):
                target = folder / source.relative_to(CSRC)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(rewritten(source.read_text()))
    _rewrite_launches(folder / "cuda" / "common" / "launch.h")
    sources = [*(folder / "cuda" / family).glob("*.cu"), *_instances(folder / "cuda" / family)]
    sources += [one for one in (folder / "cuda" / family).glob("*.cc") if one.stem != "binding"]
    command = [CLANG, "-x", "c++", "-std=c++17", "-O1", "-fPIC", "-shared", "-w"]
    command += ["-DVK_ROCM_EMULATION", "-fno-strict-aliasing"]
    command += ["-D__CUDACC__", "-include", "cuda_runtime.h"]
    layer = Path(os.environ.get(LAYER_VARIABLE) or CSRC / "rocm")
    # What is rewritten, then "rocm/warp.h" of the layer, before CSRC has either.
    command += [f"-I{one}" for one in (FOLDER, layer, folder, layer.parent, CSRC)]
    library = folder / f"lib{family}.so"
    core = [CSRC / "core" / f"{name}.cc" for name in ("status", "check", "overlap")]
    subprocess.run([*command, *map(str, sources), *map(str, core), "-o", library], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.vk_last_error.restype = ctypes.c_char_p
    return loaded


def _rewrite_launches(header: Path) -> None:
    """A launch by function pointer runs the emulation's."""
    text = header.read_text()
    old = text[text.index("  std::tuple<std::remove_const_t<Parameters>...> values") :]
    old = old[: old.index("\n}\n")]
    run = "[&] { kernel(Parameters(arguments)...); }"
    new = f"  emulation::Launch(launch.grid, launch.block, {run});"
    header.write_text(text.replace(old, new))


def _instances(folder: Path) -> list[Path]:
    """What instances.cmake makes of the family's templates."""
    listing = folder.name
    file = CSRC / "cuda" / listing / "instances.cmake"
    if not file.is_file():
        return []
    script = folder / "instances.script.cmake"
    script.write_text(
        f'include("{ROOT}/cmake/Instances.cmake")\n'
        "function(vllm_cuda_instance template name)\n"
        f'  vllm_make_instance("{folder}/${{template}}" "{folder}/made_${{name}}.cu" ${{ARGN}})\n'
        f'endfunction()\ninclude("{file}")\n'
    )
    subprocess.run(["cmake", "-P", script], check=True)
    return sorted(folder.glob("made_*.cu"))


def _argument(value: object) -> object:
    if isinstance(value, torch.Tensor):
        rest = (1,) * (MAX_DIMS - value.ndim)
        view = View(value.data_ptr(), DTYPES[value.dtype], value.ndim)
        view.shape, view.stride = (*value.shape, *rest), (*value.stride(), *rest)
        return ctypes.byref(view)
    if value is None:
        return None
    if isinstance(value, bool):
        return ctypes.c_int32(value)
    if isinstance(value, int):
        return ctypes.c_int64(value)
    if isinstance(value, float):
        return ctypes.c_double(value)
    assert isinstance(value, str)
    return ctypes.c_char_p(value.encode())


def call(library: ctypes.CDLL, op: str, *arguments: object) -> None:
    """``vk_cuda_OP`` on the host's memory."""
    status = getattr(library, f"vk_cuda_{op}")(*map(_argument, arguments), None)
    assert status == 0, library.vk_last_error().decode()
