"""Mixture of experts on a GPU, against PyTorch eager and torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F  # noqa: N812

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, load, main

ops = torch.ops.vllm_kernels

TOKENS = [16, 256, 1024, 4096]
# Mixtral 8x7B, Qwen3 30B-A3B, DeepSeek-V3: experts, experts of a token, hidden size.
MODELS = {"mixtral": (8, 2, 4096), "qwen3": (128, 8, 2048), "deepseek": (256, 8, 7168)}


def softmax_topk(gate: torch.Tensor, topk: int) -> tuple[torch.Tensor, torch.Tensor]:
    weights, experts = gate.float().softmax(-1).topk(topk, dim=-1)
    return weights / weights.sum(-1, keepdim=True), experts.int()


def grouped(gate: torch.Tensor, bias: torch.Tensor, topk: int) -> tuple[torch.Tensor, torch.Tensor]:
    scores = gate.float().sigmoid()
    choices = scores + bias
    groups = choices.unflatten(-1, (8, -1))
    best = groups.topk(2, dim=-1).values.sum(-1).topk(4, dim=-1).indices
    mask = torch.zeros_like(groups[..., 0]).scatter_(1, best, 1.0)
    allowed = mask.bool().unsqueeze(-1).expand_as(groups).flatten(-2)
    experts = choices.masked_fill(~allowed, float("-inf")).topk(topk, dim=-1).indices
    weights = scores.gather(1, experts)
    return weights / weights.sum(-1, keepdim=True) * 2.5, experts.int()


def align(ids: torch.Tensor, experts: int, block: int) -> tuple[torch.Tensor, ...]:
    """The same order without a count on the host: what PyTorch offers in a graph."""
    flat = ids.flatten()
    ordered, order = flat.sort(stable=True)
    counts = torch.zeros(experts, dtype=torch.int32, device=flat.device)
    counts.scatter_add_(0, flat.long(), torch.ones_like(flat))
    blocks = (counts + block - 1) // block
    ends = blocks.cumsum(0)
    shift = (ends - blocks) * block - (counts.cumsum(0) - counts)
    most = flat.numel() + experts * (block - 1)
    places = torch.arange(flat.numel(), device=flat.device) + shift[ordered.long()]
    out = torch.full((most,), flat.numel(), dtype=torch.int32, device=flat.device)
    out[places] = order.int()
    numbers = torch.arange(-(-most // block), device=flat.device)
    return out, torch.searchsorted(ends, numbers, right=True), ends[-1] * block


def permute(x: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    order = ids.flatten().sort(stable=True).indices
    return x[order // ids.shape[1]], order


def unpermute(rows: torch.Tensor, weights: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    return (rows[inverse].float() * weights.unsqueeze(-1)).sum(1).to(rows.dtype)


def total(x: torch.Tensor) -> torch.Tensor:
    return x.sum(1)


compiled: dict[Callable[..., object], Callable[..., object]] = {
    function: torch.compile(function, dynamic=False)
    for function in (softmax_topk, grouped, unpermute, total)
}


def _peers(function: Callable[..., object], *args: object) -> dict[str, Call]:
    """Eager, and compiled where many tokens make it worth the wait and no sort is all there is."""
    peers: dict[str, Call] = {"eager": lambda: function(*args)}
    if function in compiled and len(args[0]) > 64:  # type: ignore[arg-type]
        fast = compiled[function]
        peers["compile"] = lambda: fast(*args)
    return peers


def _ids(tokens: int, experts: int, topk: int) -> torch.Tensor:
    return torch.rand(tokens, experts, device="cuda").argsort(-1)[:, :topk].int().contiguous()


def _routing(model: str, tokens: int) -> Case:
    experts, topk, _ = MODELS[model]

    def make() -> dict[str, Call]:
        gate = torch.randn(tokens, experts, device="cuda")
        weights = torch.empty(tokens, topk, device="cuda")
        ids, rows = (torch.empty(tokens, topk, device="cuda").int() for _ in range(2))
        if model == "deepseek":
            bias = torch.randn(experts, device="cuda") * 0.1
            return {
                "ours": lambda: ops.grouped_topk(gate, 8, 4, topk, True, 2.5, bias, 1),
                **_peers(grouped, gate, bias, topk),
            }
        return {
            "ours": lambda: ops.topk_softmax(weights, ids, rows, gate, True, None),
            **_peers(softmax_topk, gate, topk),
        }

    name = "grouped_topk" if model == "deepseek" else "topk_softmax"
    shape = {"tokens": tokens, "experts": experts}
    return Case(name, shape, "f32", make, load(tokens), variant=model)


def _align(model: str, tokens: int) -> Case:
    experts, topk, _ = MODELS[model]
    block = 16 if tokens <= 64 else 64

    def make() -> dict[str, Call]:
        ids = _ids(tokens, experts, topk)
        most = ids.numel() + experts * (block - 1)
        out, names, end = (
            torch.empty(size, dtype=torch.int32, device="cuda")
            for size in (most, -(-most // block), 1)
        )
        return {
            "ours": lambda: ops.moe_align_block_size(ids, experts, block, out, names, end, None),
            **_peers(align, ids, experts, block),
        }

    shape = {"tokens": tokens, "slots": topk}
    return Case("moe_align_block_size", shape, "i32", make, load(tokens), variant=model)


def _rows(model: str, tokens: int, kind: str) -> Case:
    experts, topk, hidden = MODELS[model]
    entries = tokens * topk

    def make() -> dict[str, Call]:
        x = torch.randn(tokens, hidden, dtype=torch.bfloat16, device="cuda")
        wide = torch.randn(entries, hidden, dtype=torch.bfloat16, device="cuda")
        out = torch.empty_like(x)
        if kind == "moe_sum":
            parts = wide.view(tokens, topk, hidden)
            return {"ours": lambda: ops.moe_sum(parts, out), **_peers(total, parts)}
        ids = _ids(tokens, experts, topk)
        numbers = torch.arange(entries, dtype=torch.int32, device="cuda").view(tokens, topk)
        first = torch.empty(experts + 1, dtype=torch.int64, device="cuda")
        inverse, index = torch.empty_like(ids), torch.empty_like(numbers).flatten()
        args = (x, ids, numbers, None, experts, experts, topk, wide, first, inverse, index)
        ops.moe_permute(*args)
        if kind == "moe_permute":
            return {"ours": lambda: ops.moe_permute(*args), **_peers(permute, x, ids)}
        weights = torch.rand(tokens, topk, device="cuda")
        return {
            "ours": lambda: ops.moe_unpermute(wide, weights, inverse, first, topk, out),
            **_peers(unpermute, wide, weights, inverse.long()),
        }

    shape = {"tokens": tokens, "slots": topk, "hidden": hidden}
    moved = 2 * (entries + tokens) * hidden
    return Case(kind, shape, "bf16", make, load(tokens), variant=model, bytes_moved=moved)


def _gemm(tokens: int, n: int, k: int) -> Case:
    def make() -> dict[str, Call]:
        a = torch.randn(tokens, k, dtype=torch.bfloat16, device="cuda")
        b = torch.randn(n, k, dtype=torch.bfloat16, device="cuda")
        out = torch.empty(tokens, n, dtype=torch.bfloat16, device="cuda")
        name = "dsv3_router_gemm" if n <= 512 else "dsv3_fused_a_gemm"
        call = getattr(ops, name)
        other = b if n <= 512 else b.t()
        return {"ours": lambda: call(out, a, other), "linear": lambda: F.linear(a, b)}

    shape = {"m": tokens, "n": n, "k": k}
    moved = 2 * (tokens * (n + k) + n * k)
    return Case("small_gemm", shape, "bf16", make, load(tokens), bytes_moved=moved)


def cases() -> Iterator[Case]:
    for tokens in (1, 8, 16):
        yield _gemm(tokens, 256, 7168)
        yield _gemm(tokens, 2112, 7168)
    for model in MODELS:
        for tokens in TOKENS:
            yield _routing(model, tokens)
            yield _align(model, tokens)
        for kind in ("moe_sum", "moe_permute", "moe_unpermute"):
            yield _rows(model, 4096, kind)


if __name__ == "__main__":
    raise SystemExit(main("cuda", "moe_routing", cases))
