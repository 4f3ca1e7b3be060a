"""W4A16 without a GPU: argument checks and plans."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ..common.abi import View

pytestmark = pytest.mark.no_gpu
ROOT = Path(__file__).parents[3]
FAKE = 1 << 20  # an address that no check may read
F32, BF16, F16, I8, I32, I64, E4M3, E8M0 = 0, 1, 2, 3, 5, 6, 9, 10
U4B8, U4, FP4 = 4 << 8 | 8 << 17 | 1 << 50, 4 << 8 | 1 << 50, 2 | 1 << 8 | 1 << 16 | 1 << 49


def tensor(dtype: int, *shape: int, data: int = FAKE) -> View:
    strides = [1] * len(shape)
    for dim in range(len(shape) - 2, -1, -1):
        strides[dim] = strides[dim + 1] * shape[dim + 1]
    return View(data, dtype, len(shape), (ctypes.c_int64 * 6)(*shape),
                  (ctypes.c_int64 * 6)(*strides))  # fmt: skip


class W4A8Experts(ctypes.Structure):
    """vk_w4a8_experts of csrc/cuda/wna16/wna16.h."""

    _fields_ = (
        *((name, ctypes.POINTER(View))
          for name in ("expert_offsets", "problem_sizes", "sorted", "owners", "padded")),
        ("block", ctypes.c_int64),
        ("rows", ctypes.c_int64),
    )  # fmt: skip


class Problem(ctypes.Structure):
    """vk_marlin_problem of csrc/cuda/wna16/wna16.h."""

    _fields_ = (
        *((name, ctypes.POINTER(View))
          for name in ("a", "b_q_weight", "bias", "scales", "global_scale", "zeros", "g_idx",
                       "perm")),
        *((name, ctypes.c_int64) for name in ("b_type_id", "m", "n", "k")),
        ("is_k_full", ctypes.c_int32),
        *((name, ctypes.POINTER(View)) for name in ("token_scales", "channel_scales")),
    )  # fmt: skip


@pytest.fixture(scope="module")
def library(c_library: Callable[[str], ctypes.CDLL]) -> ctypes.CDLL:
    try:
        return c_library("wna16")
    except OSError as error:
        pytest.skip(f"the library does not load here: {error}")


def message(library: ctypes.CDLL, **change: object) -> str:
    """What the product of a good problem, but for `change`, says."""
    m, n, k, groups = 3, 128, 256, 4
    fields: dict[str, object] = {
        "a": tensor(BF16, m, k),
        "b_q_weight": tensor(I32, k // 16, n * 2),
        "scales": tensor(BF16, groups, n),
        "b_type_id": U4B8,
        "m": m, "n": n, "k": k, "is_k_full": 1,
        **change,
    }  # fmt: skip
    problem = Problem(**{
        name: ctypes.pointer(value) if isinstance(value, View) else value
        for name, value in fields.items()
    })  # fmt: skip
    c, workspace, scratch = tensor(BF16, m, n), tensor(I32, 132), tensor(I8, 1 << 20)
    status = library.vk_cuda_marlin_gemm(
        ctypes.byref(c), ctypes.byref(problem), ctypes.byref(workspace), ctypes.byref(scratch), None
    )
    assert status != 0
    text: bytes = library.vk_last_error()
    return text.decode()


MXFP4 = {"b_type_id": FP4, "scales": tensor(E8M0, 8, 128)}
NVFP4 = {"b_type_id": FP4, "scales": tensor(E4M3, 16, 128), "global_scale": tensor(F32, 1)}


SCALED = {"token_scales": tensor(F32, 3), "channel_scales": tensor(F32, 128)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"b_type_id": 3 | 2 << 8 | 1 << 16 | 1 << 49},
            "no kernel for weights of type float6_e3m2",
        ),
        ({"b_type_id": FP4}, "no kernel for float4_e2m1 weights with scales of dtype bfloat16"),
        ({**MXFP4, "scales": tensor(E8M0, 16, 128)}, "b_scales"),
        ({**MXFP4, "scales": tensor(E8M0, 8, 64)}, "b_scales"),
        ({**MXFP4, "scales": tensor(E8M0, 8, 128, data=FAKE + 1)}, "want a multiple of 16 bytes"),
        ({**MXFP4, "global_scale": tensor(F32, 1)}, "global_scale is given, but weights of type"),
        ({**MXFP4, "zeros": tensor(I32, 8, 16)}, "b_zeros is given"),
        ({**MXFP4, "g_idx": tensor(I32, 256), "perm": tensor(I32, 256)}, "g_idx is given"),
        ({**NVFP4, "scales": tensor(E4M3, 8, 128)}, "b_scales"),
        ({**NVFP4, "global_scale": None}, "global_scale is absent"),
        ({**NVFP4, "global_scale": tensor(BF16, 1)}, "global_scale is bfloat16"),
        ({**NVFP4, "global_scale": tensor(F32, 2)}, "global_scale has shape [2], want one number"),
        ({"global_scale": tensor(F32, 1)}, "global_scale is given, but weights of type uint4b8"),
        ({"a": tensor(I8, 3, 256)}, "no kernel for activations of 8 bits"),
        ({"a": tensor(BF16, 3, 255)}, "a has"),
        ({"a": tensor(I32, 3, 256)}, "a is"),
        ({"n": 96}, "size_n x size_k is 96 x 256, want multiples of 64"),
        ({"k": 1 << 22}, "want at most"),
        ({"b_q_weight": tensor(I32, 16, 128)}, "b_q_weight"),
        ({"b_q_weight": tensor(I32, 16, 256, data=FAKE + 4)}, "want a multiple of 16 bytes"),
        ({"scales": tensor(F16, 4, 128)}, "b_scales is float16"),
        ({"scales": tensor(I8, 4, 128)}, "no kernel for scales of dtype int8"),
        ({"scales": tensor(BF16, 3, 128)}, "want groups of 32 or a multiple of 64"),
        ({"scales": tensor(BF16, 16, 128)}, "want groups of 32 or a multiple of 64"),
        ({"b_type_id": U4}, "b_zeros is absent, but weights of type uint4 want them"),
        ({"zeros": tensor(I32, 4, 16)}, "b_zeros is given, but weights of type uint4b8 want none"),
        ({"bias": tensor(BF16, 64)}, "b_bias"),
        ({"token_scales": tensor(F32, 3)}, "token_scales or channel_scales is given alone"),
        ({**SCALED, "channel_scales": tensor(F32, 64)}, "channel_scales has shape [64], want 128"),
        ({**SCALED, "token_scales": tensor(BF16, 3)}, "token_scales is bfloat16, want float32"),
        (
            {**SCALED, "b_type_id": U4, "zeros": tensor(I32, 4, 16)},
            "token_scales is given, want none but for bfloat16 and weights of type uint4b8",
        ),
        ({"perm": tensor(I32, 256)}, "perm is given without g_idx"),
        ({"perm": tensor(I32, 256), "g_idx": tensor(I32, 256), "is_k_full": 0}, "is_k_full"),
    ],
)
def test_bad_problems(library: ctypes.CDLL, change: dict[str, object], said: str) -> None:
    text = message(library, **change)
    assert text.startswith("marlin_gemm: ")
    assert said in text


def test_bad_repacks(library: ctypes.CDLL) -> None:
    out, words = tensor(I32, 8, 256), tensor(I32, 16, 128)
    for k, n, bits, said in ((128, 128, 3, "num_bits is 3"), (100, 128, 4, "100 x 128")):
        size = [ctypes.c_int64(value) for value in (k, n, bits)]
        status = library.vk_cuda_gptq_marlin_repack(
            ctypes.byref(out), ctypes.byref(words), None, *size, None
        )
        assert status == 1
        assert said in library.vk_last_error().decode()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"expert_offsets": tensor(I64, 1025)}, "expert_offsets has 1025 experts, want 1 to 1024"),
        ({"problem_sizes": tensor(I32, 4, 2)}, "problem_sizes has shape [4, 2], want 3 in"),
        ({"sorted": tensor(I32, 79)}, "sorted has shape [79], want 80 in dimension 0"),
        ({"owners": tensor(I64, 5)}, "owners is int64, want int32"),
        ({"padded": tensor(I32, 2)}, "padded has shape [2], want 1 in dimension 0"),
        ({"block": 0}, "5 tiles of 0 rows, of 20 in all, want less than 2^31"),
        ({"block": 1 << 30}, "5 tiles of 1073741824 rows, of 20 in all, want less than 2^31"),
        ({"rows": 1 << 31}, "5 tiles of 16 rows, of 2147483648 in all, want less than 2^31"),
    ],
)  # fmt: skip
def test_bad_tiles_of_w4a8(library: ctypes.CDLL, change: dict[str, object], said: str) -> None:
    fields = {
        "expert_offsets": tensor(I64, 4),
        "problem_sizes": tensor(I32, 4, 3),
        "sorted": tensor(I32, 80),
        "owners": tensor(I32, 5),
        "padded": tensor(I32, 1),
        "block": 16,
        "rows": 20,
        **change,
    }
    experts = W4A8Experts(**{
        name: ctypes.pointer(value) if isinstance(value, View) else value
        for name, value in fields.items()
    })  # fmt: skip
    status = library.vk_cuda_w4a8_expert_tiles(b"cutlass_w4a8_moe_mm", ctypes.byref(experts), None)
    assert status == 1
    text = library.vk_last_error().decode()
    assert text.startswith("cutlass_w4a8_moe_mm: ")
    assert said in text


def test_plans_for_sm90(tmp_path: Path) -> None:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler (c++)")
    program = tmp_path / "wna16_plans"
    sources = [
        ROOT / "csrc/cuda/wna16" / wing / "plan.cc"
        for wing in ("small_m", "large_m", "large_experts", "marlin")
    ]
    test = Path(__file__).parent / "emulation/wna16_plans.cc"
    subprocess.run(
        [compiler, "-std=c++17", f"-I{ROOT / 'csrc'}", test, *sources, "-o", program], check=True
    )
    finished = subprocess.run([program], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout
    checks = int(finished.stdout.split(" checks")[0].splitlines()[-1])
    assert checks > 10_000
