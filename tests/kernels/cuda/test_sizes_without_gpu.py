"""Sizes that no result can have, without a GPU: one sentence, and nothing from PyTorch beside it.

A preloaded library says that tensors of the CPU are on a GPU; the ops refuse before they use one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.checks import environment, preloaded

from vllm_kernels import engine_api

pytestmark = pytest.mark.no_gpu

RUN = """
import json, sys
import torch
from torch import bfloat16, float8_e4m3fn, float32, int8, int32
import vllm_kernels

calls = json.load(sys.stdin)
for library, *_ in calls:
    torch.ops.load_library(library)
print("loaded", file=sys.stderr, flush=True)
for _, op, arguments in calls:
    call = getattr(torch.ops.vllm_kernels, op).default
    said = "nothing"
    try:
        call._op_dk(torch._C.DispatchKey.CUDA, *eval(arguments))
    except RuntimeError as error:
        said = str(error)
    print(json.dumps(said), flush=True)
"""
SCORES = "torch.zeros(129, 48, dtype=bfloat16)"
WORDS = "torch.zeros(160, 48, dtype=int32)"
SCALE = "torch.ones(1)"
INT64 = 2**63 - 1


def empty(*shape: int, dtype: str = "int32") -> str:
    return f"torch.empty({shape}, dtype={dtype})"


# Family, op, its arguments, and what is said.
CASES = [
    *(
        ("moe_routing", "grouped_topk", f"({SCORES}, 6, 2, {topk}, False, 2.5, torch.ones(48), 0)",
         f"topk is {topk}, want 0 to 48, the experts of scores")
        for topk in (-1, 49, INT64)
    ),
    *(
        ("moe_routing", "grouped_topk", f"({scores}, 6, 2, 8, False, 2.5, torch.ones(48), 0)",
         f"scores has {dims} dimensions, want 2: [tokens, experts]")
        for dims, scores in ((0, "torch.zeros(())"), (3, "torch.zeros(2, 3, 4)"))
    ),
    *(
        ("wna16", "awq_marlin_repack", f"({WORDS}, {k}, {n}, {bits}, False)", said)
        for k, n, bits, said in (
            (2**32, 192, 8, "b_q_weight has 7680 words, want those of size_k x"),
            (INT64, 7, 8, "b_q_weight has 7680 words, want those of"),
            (-64, 64, 4, "b_q_weight has 7680 words, want those of"),
            (160, 192, 3, "num_bits is 3, want 4 or 8"),
        )
    ),
    ("wna16", "gptq_marlin_repack",
     f"({empty(48, 7)}, {empty(15)}, {INT64}, 7, 8, False)",
     f"b_q_weight has 336 words, want those of size_k x size_n = {INT64} x 7"),
    ("wna16", "awq_dequantize",
     f"({empty(0, 2**60)}, {empty(0, 8, dtype='bfloat16')}, {empty(0, 8)}, 0, 0, 0)",
     f"out would be of shape [0, {INT64}], larger than any memory"),
    ("wna16", "awq_gemm",
     f"({empty(3, 64, dtype='bfloat16')}, {empty(32, 8)}, {empty(1, 64, dtype='bfloat16')}, "
     f"{empty(1, 8)}, 1)",
     "_in_feats has 64 columns, want 32, the rows of _kernel"),
    ("wna16", "gptq_gemm",
     f"({empty(2**40, 0, dtype='bfloat16')}, {empty(0, 2**40)}, {empty(0, 2**37)}, "
     f"{empty(0, 2**40, dtype='bfloat16')}, {empty(0)}, True, False, 4)",
     f"c would be of shape [{2**40}, {2**40}], larger than any memory"),
    ("wna16", "gptq_gemm",
     f"({empty(3, 64, dtype='float32')}, {empty(8, 64)}, {empty(1, 8)}, "
     f"{empty(1, 64, dtype='bfloat16')}, {empty(0)}, True, False, 4)",
     "a is of another dtype than b_gptq_scales, want the same"),
    *(
        ("wna16", "cutlass_w4a8_moe_mm",
         f"({empty(1, 384, dtype='bfloat16')}, {empty(1, 256, dtype='float8_e4m3fn')}, "
         f"{empty(1, 384, 32)}, {SCALE}, {scales}, {empty(1, 2, 768, dtype='float8_e4m3fn')}, 128, "
         f"*[{empty(1, dtype='torch.int64')}], {empty(1, 3)}, "
         f"*[{empty(1, dtype='torch.int64')}] * 4, None)",
         f"b_scales {said}")
        for scales, said in (
            ("torch.ones(1, 384, 4)[:, :, :1]", "is not contiguous"),
            ("torch.ones(1, 383, 1)", "has shape [1, 383, 1], want 384 elements"),
            ("torch.ones(1, 384, 1).half()", "is not float32"),
        )
    ),
    ("sparse_gemm", "sparse_compress", "(torch.ones(192, 1, dtype=int8).expand(192, 2**31),)",
     "weight is expanded to more than 2147483647 elements"),
    ("sparse_gemm", "sparse_compress", "(torch.ones(192, dtype=int8),)",
     "weight has 1 dimensions, want 2: [N, K]"),
    ("gemm", "cutlass_scaled_mm",
     f"(torch.zeros(3, 32, dtype=bfloat16), torch.ones((), dtype=int8), "
     f"torch.ones(64, 32, dtype=int8).t().contiguous().t(), torch.ones(2, 2), {SCALE}, None)",
     "a has"),
]  # fmt: skip


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one to preload."""
    found = preloaded(tmp_path_factory.mktemp("fake"))
    if found is None:
        pytest.skip("needs a C compiler (set CC)")
    return found


@pytest.mark.parametrize("family", sorted({family for family, *_ in CASES}))
def test_one_sentence(library: Path, family: str) -> None:
    ours = engine_api.find_library(engine_api.cuda_library(family))
    if ours is None:
        pytest.skip(f"the build lacks {family}")
    cases = [(op, arguments, said) for one, op, arguments, said in CASES if one == family]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN],
        input=json.dumps([(str(ours), op, arguments) for op, arguments, _ in cases]),
        env=environment(library),
        capture_output=True,
        text=True,
        check=False,
    )
    sentences = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (sentences, done.stderr)
    assert done.stderr.endswith("loaded\n")
    for (op, _, said), sentence in zip(cases, sentences, strict=True):
        assert sentence.startswith(f"{op}: {said}")
        assert "\n" not in sentence
