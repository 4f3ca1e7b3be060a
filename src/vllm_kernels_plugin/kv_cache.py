"""A KV cache of 8 bits on every CPU: the engine asks for AVX-512, our kernels do not."""

from __future__ import annotations

import torch

# The engine's names for the cache in the model's own type.
_PLAIN = (None, "auto", "bfloat16", "float16")


def serve() -> None:
    """Leave the questions out that the engine's backend asks of CPU and head size."""
    from vllm.v1.attention.backends import cpu_attn

    theirs = cpu_attn._get_attn_isa
    if theirs.__module__ != __name__:

        def isa(
            dtype: torch.dtype,
            block_size: int,
            head_size: int | None = None,
            kv_cache_dtype: str | None = None,
        ) -> str:
            found: str = theirs(dtype, block_size, head_size)
            return found

        cpu_attn._get_attn_isa = isa
    backend = cpu_attn.CPUAttentionBackend
    if "supports_kv_cache_dtype" in vars(backend):
        backend.supports_kv_cache_dtype = classmethod(_supports)


def _supports(cls: type, kv_cache_dtype: str | None) -> bool:
    served: list[str] = cls.supported_kv_cache_dtypes  # type: ignore[attr-defined]
    return kv_cache_dtype in _PLAIN or kv_cache_dtype in served
