"""Which backend of latent attention the engine gets on a CPU, and what it may do with it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vllm_kernels_plugin import latent_cpu

KNOWN = SimpleNamespace(
    CPU_MLA=SimpleNamespace(name="CPU_MLA"),
    AMX_MLA=SimpleNamespace(name="AMX_MLA", get_path=lambda: "there"),
)


def config(backend: Any = None, cache: str = "auto") -> Any:
    return SimpleNamespace(
        attention_config=SimpleNamespace(backend=backend),
        cache_config=SimpleNamespace(cache_dtype=cache, enable_prefix_caching=True, block_size=128),
        scheduler_config=SimpleNamespace(enable_chunked_prefill=True, max_num_batched_tokens=512),
    )


def test_the_backend_that_chunks_is_preferred() -> None:
    assert latent_cpu.backend(config(), KNOWN) is KNOWN.AMX_MLA
    assert latent_cpu.backend(config(KNOWN.AMX_MLA), KNOWN) is KNOWN.AMX_MLA
    # As asked, for a cache of another dtype than the model's, and where there is no other.
    assert latent_cpu.backend(config(KNOWN.CPU_MLA), KNOWN) is KNOWN.CPU_MLA
    assert latent_cpu.backend(config(cache="bfloat16"), KNOWN) is KNOWN.CPU_MLA
    alone = SimpleNamespace(CPU_MLA=KNOWN.CPU_MLA)
    assert latent_cpu.backend(config(), alone) is KNOWN.CPU_MLA


def test_its_class_is_taken_on_every_cpu() -> None:
    latent = SimpleNamespace(use_mla=True, use_sparse=False)
    assert latent_cpu.path(KNOWN.AMX_MLA, latent) == "there"
    assert latent_cpu.path(KNOWN.CPU_MLA, latent) is None
    assert latent_cpu.path(None, latent) is None
    for other in ({"use_mla": False, "use_sparse": False}, {"use_mla": True, "use_sparse": True}):
        assert latent_cpu.path(KNOWN.AMX_MLA, SimpleNamespace(**other)) is None


@pytest.mark.parametrize("kept", [True, False])
def test_what_the_engine_forbids_without_amx(kept: bool) -> None:
    made = config(KNOWN.AMX_MLA if kept else KNOWN.CPU_MLA)
    before = repr(made)
    with latent_cpu.as_on_amx(made):
        made.cache_config.enable_prefix_caching = False
        made.cache_config.block_size = 16
        made.scheduler_config.enable_chunked_prefill = False
        made.scheduler_config.max_num_batched_tokens = 4096
    assert (repr(made) == before) is kept
