"""Products of gpt-oss's experts with 4-bit weights, against bfloat16: grouped, and one at a time.

The peers get their rows by expert; ours gathers them. The traffic is that of the experts that a
batch uses, activations and results.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.cuda.wna16_weights import TYPES, Layer, global_scale_of, scales_of
from benchmarks.harness import Call, Case, load, offered

ops = torch.ops.vllm_kernels

TOKENS = [1, 8, 32, 128, 512, 2048, 8192]
KINDS = ("mxfp4", "nvfp4", "u4b8")
# Experts, n and k: both products of gpt-oss 20B and the first one of 120B, in the sizes that the
# engine pads them to. A token has four experts.
MODELS = {
    "gpt-oss-20b w13": (32, 5888, 3072),
    "gpt-oss-20b w2": (32, 3072, 2944),
    "gpt-oss-120b w13": (128, 5888, 3072),
}
CHOSEN = 4


def choices(tokens: int, experts: int) -> torch.Tensor:
    """[tokens, CHOSEN]: experts of each token, at random and the same in every run."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(tokens, experts, generator=generator).argsort(-1)[:, :CHOSEN].int()


def block_of(tokens: int, experts: int) -> int:
    """Places of a tile, as the engine chooses them."""
    sizes = (8, 16, 32, 48, 64)
    rows = tokens * CHOSEN / experts
    return next((size for size in sizes if rows / size < 0.9), sizes[-1])


def product(layer: Layer, experts: int, chosen: torch.Tensor, a: torch.Tensor) -> Call:
    """Fresh weights of ``experts`` times the rows of ``a`` that chose them."""
    k, n, kind, tokens = layer.k, layer.n, layer.kind, len(a)
    block = block_of(tokens, experts)
    rows = chosen.numel()
    places = -(-(rows + min(experts, rows) * (block - 1)) // block) * block

    def empty(size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.int32, device="cuda")

    order, owners, used = empty(places), empty(places // block), empty(1)
    ops.moe_align_block_size(chosen.cuda(), experts, block, order, owners, used, None)
    shape = (experts, k // 16, 2 * n)
    words = torch.randint(-(2**31), 2**31, shape, dtype=torch.int32, device="cuda")
    bias = torch.randn(experts, n, device="cuda").bfloat16()
    multiprocessors = torch.cuda.get_device_properties().multi_processor_count
    workspace = torch.zeros(4 * multiprocessors, dtype=torch.int32, device="cuda")
    factors = torch.rand(tokens, CHOSEN, device="cuda")
    out = torch.empty(rows, n, dtype=torch.bfloat16, device="cuda")
    return partial(
        ops.moe_wna16_marlin_gemm,
        a, out, words, bias, scales_of(kind, experts, layer.groups, n), None,
        global_scale_of(kind, experts), None, None, None, workspace, order, owners, used, factors,
        block, CHOSEN, False, TYPES[kind], tokens, n, k, True, False, True, False, -1, -1, -1,
    )  # fmt: skip


def _calls(layer: Layer, chosen: torch.Tensor, counts: list[int]) -> dict[str, Call]:
    """``counts``: rows of each expert."""
    experts = len(counts)
    a = torch.randn(len(chosen), layer.k, device="cuda").bfloat16()
    dense = torch.randn(experts, layer.n, layer.k, device="cuda", dtype=torch.bfloat16)
    rows = torch.randn(chosen.numel(), layer.k, device="cuda").bfloat16()
    ends = torch.tensor(counts, device="cuda").cumsum(0).int()
    parts = [(part, dense[expert]) for expert, part in enumerate(rows.split(counts)) if len(part)]
    peers: dict[str, Call] = {
        "grouped": lambda: torch._grouped_mm(rows, dense.transpose(1, 2), offs=ends),
        "loop": lambda: [F.linear(part, weight) for part, weight in parts],
    }
    return {"ours": product(layer, experts, chosen, a), **offered(peers)}


def expert_cases() -> Iterator[Case]:
    """Experts' products: model by model, type by type, batch by batch."""
    for name, (experts, n, k) in MODELS.items():
        for kind in KINDS:
            layer = Layer(kind, k, n)
            for tokens in TOKENS:
                chosen = choices(tokens, experts)
                counts = torch.bincount(chosen.flatten(), minlength=experts).tolist()
                rows, used = tokens * CHOSEN, experts - counts.count(0)
                yield Case(
                    "moe_wna16_marlin_gemm",
                    {"tokens": tokens, "slots": CHOSEN, "experts": experts, "n": n, "k": k},
                    kind,
                    partial(_calls, layer, chosen, counts),
                    load(tokens),
                    variant=name,
                    bytes_moved=used * layer.weight_bytes + 2 * (tokens * k + rows * n),
                    flops=2 * rows * n * k,
                )
