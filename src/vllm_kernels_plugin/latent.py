"""Prefill of latent attention (DeepSeek-V2 2024) on our attention op.

The engine's own backend pads the values to the head size of queries and keys, which its
implementation needs and ours does not.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.attention.backends.mla.prefill.flash_attn import FlashAttnPrefillBackend


class KernelsPrefillBackend(FlashAttnPrefillBackend):  # type: ignore[misc]
    """The engine's backend without the padding."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.requires_v_padding = False
