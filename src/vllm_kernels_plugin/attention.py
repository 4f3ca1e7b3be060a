"""Our attention as a backend of the engine.

The cache has the layout of the engine's Triton backend, whose code takes over what our kernels do
not serve: caches quantised per token, and writing to the cache where only attention is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from vllm.v1.attention.backend import AttentionType
from vllm.v1.attention.backends.triton_attn import (
    TritonAttentionBackend,
    TritonAttentionImpl,
    TritonAttentionMetadata,
)

from vllm_kernels import engine_api
from vllm_kernels_plugin import flash_attention

if TYPE_CHECKING:
    from vllm.platforms.interface import DeviceCapability

NAME = "CUSTOM"  # the engine's place for backends from outside
_CACHE_OP = "reshape_and_cache_flash"
_MAX_HEAD_SIZE = 256
_WITHOUT_CACHE = (AttentionType.ENCODER, AttentionType.ENCODER_ONLY)


class KernelsAttentionBackend(TritonAttentionBackend):
    """Paged attention by ``vllm_kernels::varlen_attention``; decode and prefill in one call."""

    supported_dtypes: ClassVar[list[torch.dtype]] = [torch.float16, torch.bfloat16]
    supported_kv_cache_dtypes: ClassVar[list[Any]] = [
        "auto",
        "float16",
        "bfloat16",
        "fp8",
        "fp8_e4m3",
    ]

    @staticmethod
    def get_name() -> str:
        return NAME

    @staticmethod
    def get_impl_cls() -> type[KernelsAttentionImpl]:
        return KernelsAttentionImpl

    @classmethod
    def supports_head_size(cls, head_size: int) -> bool:
        return head_size <= _MAX_HEAD_SIZE

    @classmethod
    def supports_compute_capability(cls, capability: DeviceCapability) -> bool:
        return bool(capability >= (7, 5))

    @classmethod
    def supports_combination(
        cls, head_size: int, dtype: torch.dtype, *args: Any, **kwargs: Any
    ) -> str | None:
        if reason := flash_attention.problem():
            return reason
        capability = kwargs.get("device_capability", args[-1] if args else None)
        if dtype == torch.bfloat16 and capability is not None and capability < (8, 0):
            return "bfloat16 needs compute capability 8.0"
        return None

    # Only the engine's Triton kernels do these.
    @classmethod
    def supports_mm_prefix(cls) -> bool:
        return False

    @classmethod
    def supports_alibi_sqrt(cls) -> bool:
        return False

    @classmethod
    def supports_batch_invariance(cls) -> bool:
        # How keys are split depends on the batch.
        return False


class KernelsAttentionImpl(TritonAttentionImpl):  # type: ignore[misc]
    """One layer's attention."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Queries stay in 16 bits beside a cache in 8.
        self.supports_quant_query_input = False
        self._quantised = self.kv_cache_dtype.startswith("fp8")
        self._writes = "CUDA" in engine_api.dispatch_keys(_CACHE_OP)

    def fused_output_quant_supported(self, quant_key: object) -> bool:
        return False

    def _caches(self, kv_cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, ``[blocks, block_size, kv_heads, head_size]`` each."""
        by_slot = kv_cache.transpose(1, 2)
        return by_slot[..., : self.head_size], by_slot[..., self.head_size :]

    def forward(
        self,
        layer: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: TritonAttentionMetadata,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attention of the batch's tokens, written to ``output``.

        Args:
            query: ``[tokens, heads, head_size]``.
            key: ``[tokens, kv_heads, head_size]``, used where there is no cache.
            value: As ``key``.
            kv_cache: ``[blocks, kv_heads, block_size, 2 * head_size]``, any strides.
            output: As ``query``.
        """
        if output_scale is not None or output_block_scale is not None:
            raise NotImplementedError("quantised output is not served by vllm_kernels' attention")
        if attn_metadata is None:  # the run that measures memory
            return output.fill_(0)
        tokens = attn_metadata.num_actual_tokens
        starts = attn_metadata.query_start_loc
        causal = attn_metadata.causal
        k_scale = v_scale = None
        if self.attn_type in _WITHOUT_CACHE:
            keys, values = key[:tokens], value[:tokens]
            causal = False
            where: tuple[torch.Tensor | None, ...] = (None, starts, None)
            longest = attn_metadata.max_query_len
        else:
            keys, values = self._caches(kv_cache)
            if self._quantised:
                k_scale, v_scale = layer._k_scale, layer._v_scale
            where = (attn_metadata.seq_lens, None, attn_metadata.block_table)
            longest = attn_metadata.max_seq_len
        dynamic = causal if isinstance(causal, torch.Tensor) else None
        torch.ops.vllm_kernels.varlen_attention(
            output[:tokens],
            query[:tokens],
            keys,
            values,
            starts,
            *where,
            attn_metadata.max_query_len,
            longest,
            self.scale,
            True if dynamic is not None else bool(causal),
            self.sliding_window[0],
            self.sliding_window[1],
            self.logits_soft_cap,
            self.alibi_slopes,
            self.sinks,
            k_scale,
            v_scale,
            None,
            dynamic,
        )
        return output

    def do_kv_cache_update(
        self,
        layer: Any,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """Write ``key`` and ``value`` to the slots of the cache; negative slots are left out."""
        if not self._writes or self.attn_type in _WITHOUT_CACHE:
            super().do_kv_cache_update(layer, key, value, kv_cache, slot_mapping)
            return
        keys, values = self._caches(kv_cache)
        torch.ops.vllm_kernels.reshape_and_cache_flash(
            key,
            value,
            keys,
            values,
            slot_mapping,
            self.kv_cache_dtype,
            layer._k_scale,
            layer._v_scale,
        )
