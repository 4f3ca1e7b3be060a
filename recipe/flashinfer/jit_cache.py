"""Where FlashInfer finds modules that were compiled ahead of time: its name for them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

# lib/pythonX.Y/site-packages/flashinfer_jit_cache/__init__.py -> lib/vllm_flashinfer
_FOLDER = Path(__file__).parents[3] / "vllm_flashinfer"
_SUMMARY = json.loads((_FOLDER / "modules.json").read_text(encoding="utf-8"))

__version__ = f"{_SUMMARY['flashinfer']}+cu{_SUMMARY['cuda'].replace('.', '')}"


@dataclass(frozen=True)
class Provider:
    """What FlashInfer 0.7 asks of a package of modules."""

    provider_id: str
    distribution: str
    version: str
    jit_cache_dir: str
    cuda_architectures: frozenset[str]
    modules: frozenset[str]


def get_jit_cache_dir() -> str:
    """FOLDER, for FOLDER/NAME/NAME.so: what FlashInfer 0.6 asks."""
    return str(_FOLDER)


def get_jit_cache_providers() -> tuple[Provider, ...]:
    """The same with what is in it."""
    return (
        Provider(
            "vllm-flashinfer",
            "flashinfer-jit-cache",
            __version__,
            str(_FOLDER),
            frozenset(f"sm{arch.replace('.', '')}" for arch in _SUMMARY["archs"]),
            frozenset(_SUMMARY["modules"]),
        ),
    )
