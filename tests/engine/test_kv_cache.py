"""A KV cache of 8 bits on CPUs that the engine's own kernels do not serve."""

from __future__ import annotations

import pytest
from conftest import Engine

OLDER = """
def _get_attn_isa(dtype, block_size, head_size=None, kv_cache_dtype=None):
    if kv_cache_dtype in ("fp8", "fp8_e4m3", "fp8_e5m2"):
        raise NotImplementedError("FP8 KV cache on CPU requires x86 with AVX-512 or AMX.")
    return "vec16" if head_size is not None and head_size % 32 else "vec"


class CPUAttentionBackend:
    supported_kv_cache_dtypes = ["auto", "fp8", "fp8_e4m3", "fp8_e5m2"]
"""
NEWER = """
    @classmethod
    def supports_kv_cache_dtype(cls, kv_cache_dtype):
        return kv_cache_dtype in (None, "auto")
"""


@pytest.mark.parametrize("newer", [False, True])
def test_the_engine_is_not_asked(engine: Engine, newer: bool) -> None:
    engine.write("vllm/v1/attention/backends/cpu_attn.py", OLDER + (NEWER if newer else ""))
    done = engine.run(
        """
        from vllm_kernels_plugin import kv_cache
        kv_cache.serve()
        kv_cache.serve()
        from vllm.v1.attention.backends import cpu_attn
        print(cpu_attn._get_attn_isa(None, 128, 64, "fp8"),
              cpu_attn._get_attn_isa(None, 128, 80, "fp8_e5m2"))
        ask = getattr(cpu_attn.CPUAttentionBackend, "supports_kv_cache_dtype", None)
        print(ask and [ask(one) for one in (None, "auto", "bfloat16", "fp8", "fp8_e5m2", "nvfp4")])
        """
    )
    answers = "[True, True, True, True, True, False]" if newer else "None"
    assert done.stdout.splitlines() == ["vec vec16", answers], done.stderr
