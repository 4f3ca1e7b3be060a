"""The summary that vllm-flashinfer holds beside its modules (recipe/flashinfer)."""

from __future__ import annotations

from dataclasses import dataclass

import cattrs

from vllm_conda.structure import GROUPS, load_json

SUMMARY = "modules.json"
FILE = f"lib/vllm_flashinfer/{SUMMARY}"


@dataclass(frozen=True)
class Modules:
    """What was compiled: FlashInfer's and CUDA's version, architectures, names."""

    flashinfer: str
    cuda: str
    archs: tuple[str, ...]
    modules: tuple[str, ...]


def read(data: bytes) -> Modules:
    """Read the summary.

    Raises:
        ValueError: It is damaged.
    """
    try:
        return cattrs.structure(load_json(data), Modules)
    except (KeyError, TypeError, *GROUPS) as error:
        raise ValueError(f"it is malformed: {type(error).__name__}") from None
