"""Latent attention (DeepSeek) on a CPU, with keys and values that stay latent in the cache.

The engine has two backends. AMX_MLA chunks prompts and caches prefixes; the engine takes it where
the CPU has AMX, which upstream's ops need. Ours run on every tier, so every CPU gets it. CPU_MLA
does neither, and is left for caches of another dtype and for those who ask for it.

Keys stay latent only where asked for (VLLM_MLA_DISABLE=0): of 2,048 tokens in and 256 out, prompts
lose what decode gains, or more (docs/performance/notes/attention.md). With AMX nothing has run yet.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm.config import VllmConfig

logger = logging.getLogger("vllm.plugins.vllm_kernels")

NAME = "AMX_MLA"
OPS = (
    "bmm_cpu",
    "concat_and_cache_mla_cpu",
    "convert_weight_packed",
    "decode_attention_cpu",
    "extend_attention_cpu",
)
# Without this function of their platform, engines before 0.32 import FlashAttention for prompts.
CHOICE = "get_mla_prefill_backend_cls"


def backend(config: VllmConfig, known: Any) -> Any:
    """Which of the two ``config`` takes; ``known`` is the engine's enumeration of backends."""
    one = getattr(known, NAME, None)
    plain = config.cache_config.cache_dtype == "auto"
    asked = config.attention_config.backend
    if one is None or not plain or (asked is not None and asked == known.CPU_MLA):
        return known.CPU_MLA
    return one


def path(selected: Any, attention: Any) -> str | None:
    """The class of AMX_MLA where it was chosen, whatever the engine thinks of this CPU."""
    if selected is None or selected.name != NAME or not attention.use_mla or attention.use_sparse:
        return None
    return str(selected.get_path())


@contextmanager
def as_on_amx(config: VllmConfig) -> Iterator[None]:
    """Keep what the engine forbids with the other backend, which it expects without AMX."""
    chosen = config.attention_config.backend
    if chosen is None or chosen.name != NAME:
        yield
        return
    kept = [
        (config.scheduler_config, "enable_chunked_prefill"),
        (config.scheduler_config, "max_num_batched_tokens"),
        (config.cache_config, "enable_prefix_caching"),
        (config.cache_config, "block_size"),
    ]
    values = [getattr(settings, name) for settings, name in kept]
    yield
    if values != [getattr(settings, name) for settings, name in kept]:
        # The engine has just said otherwise.
        logger.info("%s is served on this CPU: prompts may be chunked, prefixes cached", NAME)
    for (settings, name), value in zip(kept, values, strict=True):
        setattr(settings, name, value)
