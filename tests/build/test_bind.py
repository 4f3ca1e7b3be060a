"""A binding that does not fit its op's schema is an error of the compiler, with a sentence."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("c++")
TORCH = importlib.util.find_spec("torch")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMPILER is None or TORCH is None, reason="needs c++ and PyTorch's headers"),
]

HEAD = """
#include "torch/bind.h"
extern "C" {
vk_status good(const vk_tensor*, const vk_tensor*, const vk_tensor*, double);
vk_status fewer(const vk_tensor*, const vk_tensor*, double);
vk_status other(const vk_tensor*, const vk_tensor*, const vk_tensor*, const char*);
vk_status on_stream(const vk_tensor*, const vk_tensor*, const vk_tensor*, double, void*);
}
using vk::binding::Tensor;
void function(const Tensor&, const Tensor&, const std::optional<Tensor>&, double);
void present(const Tensor&, const Tensor&, const Tensor&, double);
int64_t returns(const Tensor&, const Tensor&, const std::optional<Tensor>&, double);
"""


def compile_line(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Compile one line of csrc/cpu/norm/binding.cc."""
    assert COMPILER is not None
    assert TORCH is not None
    assert TORCH.origin is not None
    source = folder / "csrc/cpu/norm/binding.cc"
    source.parent.mkdir(parents=True)
    source.write_text(f"{HEAD}\n{line}\n")
    command = [COMPILER, "-std=c++20", "-fsyntax-only", "-fvisibility=hidden", "-Wall", "-Werror"]
    command += ["-DTORCH_TARGET_VERSION=0x020b000000000000", f"-I{ROOT / 'csrc'}"]
    command += ["-isystem", str(Path(TORCH.origin).parent / "include"), str(source)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "line",
    [
        "VK_BIND(CPU, rms_norm, good);",
        "VK_BIND(CUDA, rms_norm, on_stream);",
        "VK_BIND(CUDA, rms_norm, on_stream, result);",
        "VK_IMPL(CPU, rms_norm, function);",
    ],
)
def test_binding_that_fits(tmp_path: Path, line: str) -> None:
    done = compile_line(tmp_path, line)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("VK_BIND(CPU, rms_norm, fewer);", "the C function takes another number of arguments"),
        ("VK_BIND(CPU, rms_norm, other);", "a parameter of the C function is of another type"),
        ("VK_BIND(CUDA, rms_norm, on_stream, weights);", "has no tensor of that name"),
        ("VK_BIND(CPU, rms_nrom, good);", "csrc/torch/ops.def has no op rms_nrom"),
        ("VK_BIND(CPU, silu_and_mul, good);", "gives silu_and_mul to another family than this"),
        ("VK_IMPL(CPU, rms_norm, present);", "a parameter of the function is of another type"),
        ("VK_IMPL(CPU, rms_norm, returns);", "the function returns something else"),
    ],
)
def test_binding_that_does_not_fit(tmp_path: Path, line: str, sentence: str) -> None:
    done = compile_line(tmp_path, line)
    assert done.returncode != 0
    assert sentence in re.sub(r"\s+", " ", done.stderr)
