"""The ops that the engine calls before attention: its metadata, and which caches it has."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .attention import Problem, make, ops


def metadata(**changes: Any) -> torch.Tensor:
    args = {
        "num_req": 2,
        "num_heads_q": 8,
        "num_heads_kv": 2,
        "head_dim": 64,
        "seq_lens": torch.tensor([1, 5], dtype=torch.int32),
        "dtype": torch.bfloat16,
        "query_start_loc": torch.tensor([0, 1, 2], dtype=torch.int32),
        "casual": True,
        "window_size": -1,
        "isa_hint": "vec",
        "enable_kv_split": True,
        "dynamic_causal": None,
    }
    result = ops.get_scheduler_metadata(**{**args, **changes})
    assert isinstance(result, torch.Tensor)
    return result


def test_metadata_serves_the_attention_call(tier: str) -> None:
    batch = make(Problem(), torch.bfloat16)
    batch.args["scheduler_metadata"] = metadata()
    batch.check()


def test_metadata_refuses_heads_that_do_not_divide() -> None:
    with pytest.raises(RuntimeError, match=r"num_heads_q is 7, want a positive multiple of .* 2"):
        metadata(num_heads_q=7)


def test_has_isa(tier: str) -> None:
    assert ops.cpu_attn_has_isa("vec")
    assert ops.cpu_attn_has_isa("vec16")
    assert ops.cpu_attn_has_isa("amx") == (tier == "amx")
    assert not ops.cpu_attn_has_isa("neon")
