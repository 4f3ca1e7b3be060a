from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vllm_kernels._selftest_checks.registry import check


@check("biased_topk_cpu", "hash_topk_cpu")
def _routing(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """37 experts, no whole number of vectors; scores that differ in every dtype."""
    logits = torch.stack([torch.randperm(37) for _ in range(5)]).to(dtype) / 8
    bias = torch.rand(37) / 1024
    named = torch.stack([torch.randperm(37)[:4] for _ in range(5)]).int()
    return [
        *ops.biased_topk_cpu(logits, logits, bias, 4, True, "sqrtsoftplus", 0, 2.5, True),
        *ops.biased_topk_cpu(logits, logits, bias, 4, False, "sigmoid", 0, None, False),
        *ops.hash_topk_cpu(logits, named, 4, "sqrtsoftplus", 0, 37, 2.5),
        *ops.hash_topk_cpu(logits, named, 4, "softmax", 0, 37, 2.5),
    ]
