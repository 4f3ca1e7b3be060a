"""The experts' grouped FP8 products on a GPU, against PyTorch's grouped and single products."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, load, main, offered

ops = torch.ops.vllm_kernels

BLOCK = 128  # columns, and rows of weights, that share a scale
TOKENS = [16, 64, 256, 1024, 4096]
# Experts, experts of a token, n and k: both products of Mixtral 8x7B and of Qwen3 30B-A3B, and the
# first one of DeepSeek-V3 with its experts on eight GPUs.
MODELS = {
    "mixtral w13": (8, 2, 28672, 4096),
    "mixtral w2": (8, 2, 4096, 14336),
    "qwen3 w13": (128, 8, 1536, 2048),
    "qwen3 w2": (128, 8, 2048, 768),
    "deepseek w13": (32, 1, 4096, 7168),
}


def e4m3(*shape: int) -> torch.Tensor:
    """Random float8 without a large float32 tensor on the way; no NaN."""
    bits = torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda")
    return bits.bitwise_and_(0xBF).view(torch.float8_e4m3fn)


def routed(tokens: int, experts: int, topk: int) -> list[int]:
    """Rows of each expert, for tokens that choose at random."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(tokens, experts, generator=generator).argsort(-1)[:, :topk]
    return torch.bincount(chosen.flatten(), minlength=experts).tolist()


def calls(counts: list[int], n: int, k: int) -> dict[str, Call]:
    experts, rows = len(counts), sum(counts)
    a, b = e4m3(rows, k), e4m3(experts, n, k)
    a_scales = torch.rand(rows, 1, device="cuda") * 0.01
    b_scales = torch.rand(experts, n, device="cuda") * 0.01
    out = torch.empty(rows, n, dtype=torch.bfloat16, device="cuda")
    sizes = torch.tensor([[count, n, k] for count in counts], dtype=torch.int32, device="cuda")
    ends = torch.tensor(counts, device="cuda").cumsum(0)
    offsets, stops = ends - sizes[:, 0], ends.int()
    strides = torch.full((experts,), k, dtype=torch.int64, device="cuda")
    ours = (a, b, a_scales, b_scales, offsets, sizes, strides, strides, strides, True, True)
    turned = b.transpose(1, 2)
    flat = a_scales.flatten()
    # One product an expert, of whole multiples of 16 rows, as cuBLAS wants them.
    padded = [-(-count // 16) * 16 for count in counts]
    parts = [
        (e4m3(rows, k), turned[expert], torch.rand(rows, 1, device="cuda"), b_scales[expert, None])
        for expert, rows in enumerate(padded)
        if rows
    ]

    def loop() -> list[torch.Tensor]:
        return [
            torch._scaled_mm(x, w, s, t, out_dtype=torch.bfloat16, use_fast_accum=True)
            for x, w, s, t in parts
        ]

    def grouped() -> torch.Tensor:
        return torch._scaled_grouped_mm(
            a, turned, flat, b_scales, offs=stops, out_dtype=torch.bfloat16, use_fast_accum=True
        )

    wide_a, wide_b = a.bfloat16(), b.bfloat16().transpose(1, 2)
    peers: dict[str, Call] = {
        "grouped": grouped,
        "loop": loop,
        "bf16": lambda: torch._grouped_mm(wide_a, wide_b, offs=stops),
    }
    return {"ours": lambda: ops.cutlass_moe_mm(out, *ours), **offered(peers)}


def by_columns(rows: int, k: int) -> torch.Tensor:
    """Scales of 1 x 128 as cuBLAS wants them."""
    return (torch.rand(k // BLOCK, -(-rows // 4) * 4, device="cuda") * 0.01).t()[:rows]


def labelled(counts: list[int], n: int, k: int) -> dict[str, Call]:
    """Rows of each expert filled up to a block, as the engine lays them out for DeepGEMM."""
    experts = len(counts)
    padded = [-(-count // BLOCK) * BLOCK for count in counts]
    labels: list[int] = []
    for expert, (count, rows) in enumerate(zip(counts, padded, strict=True)):
        labels += [expert] * count + [-1] * (rows - count)
    whose = torch.tensor(labels, dtype=torch.int32, device="cuda")
    a, b = e4m3(len(labels), k), e4m3(experts, n, k)
    a_scales = by_columns(len(labels), k)
    b_scales = torch.rand(experts, -(-n // BLOCK), k // BLOCK, device="cuda") * 0.01
    out = torch.empty(len(labels), n, dtype=torch.bfloat16, device="cuda")
    ends = torch.tensor(padded, dtype=torch.int32, device="cuda").cumsum(0).int()
    wide_a, wide_b = a.bfloat16(), b.bfloat16().transpose(1, 2)
    return {
        "ours": lambda: ops.grouped_mm_labelled(out, a, a_scales, b, b_scales, whose, BLOCK),
        **offered({
            "loop": loop_by_blocks(counts, b, b_scales),
            "bf16": lambda: torch._grouped_mm(wide_a, wide_b, offs=ends),
        }),
    }  # fmt: skip


def counted(counts: list[int], n: int, k: int) -> dict[str, Call]:
    """As many rows for each expert, some of them in use."""
    experts, rows = len(counts), -(-max(counts) // 64) * 64
    used = torch.tensor(counts, dtype=torch.int32, device="cuda")
    a, b = e4m3(experts, rows, k), e4m3(experts, n, k)
    a_scales = torch.rand(experts, k // BLOCK, rows, device="cuda").mT * 0.01
    b_scales = torch.rand(experts, -(-n // BLOCK), k // BLOCK, device="cuda") * 0.01
    out = torch.empty(experts, rows, n, dtype=torch.bfloat16, device="cuda")
    mean = -(-sum(counts) // experts)
    wide_a, wide_b = a.bfloat16(), b.bfloat16().transpose(1, 2)
    return {
        "ours": lambda: ops.grouped_mm_counted(out, a, a_scales, b, b_scales, used, mean),
        **offered({
            "loop": loop_by_blocks(counts, b, b_scales),
            "bf16": lambda: torch.bmm(wide_a, wide_b),
        }),
    }  # fmt: skip


def loop_by_blocks(counts: list[int], b: torch.Tensor, b_scales: torch.Tensor) -> Call:
    """One product an expert with scales of blocks, of whole multiples of 16 rows."""
    k = b.shape[2]
    parts = [
        (e4m3(rows, k), b[expert].t(), by_columns(rows, k), b_scales[expert].t())
        for expert, rows in enumerate(-(-count // 16) * 16 for count in counts)
        if rows
    ]

    def loop() -> list[torch.Tensor]:
        return [torch._scaled_mm(x, w, s, t, out_dtype=torch.bfloat16) for x, w, s, t in parts]

    return loop


# By op: what makes its calls.
OPS = {"moe_mm": calls, "grouped_mm_labelled": labelled, "grouped_mm_counted": counted}


def cases() -> Iterator[Case]:
    for op, make in OPS.items():
        yield from cases_of(op, make)


def cases_of(op: str, make: Callable[[list[int], int, int], dict[str, Call]]) -> Iterator[Case]:
    for name, (experts, topk, n, k) in MODELS.items():
        for tokens in TOKENS:
            counts = routed(tokens, experts, topk)
            rows, used = sum(counts), sum(count > 0 for count in counts)
            yield Case(
                op,
                {"tokens": tokens, "slots": topk, "experts": experts, "n": n, "k": k},
                "fp8",
                functools.partial(make, counts, n, k),
                load(tokens),
                variant=name,
                bytes_moved=used * n * k + rows * (k + 2 * n),
                flops=2 * rows * n * k,
            )


if __name__ == "__main__":
    raise SystemExit(main("cuda", "moe_gemm", cases))
