"""Constants of the C ABI, read from its headers."""

from __future__ import annotations

import re
from pathlib import Path

import torch

SOURCES = Path(__file__).parents[2] / "csrc"
# By the names of vk_dtype.
_DTYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "I32": torch.int32,
    "I64": torch.int64,
    "BOOL": torch.bool,
    "F64": torch.float64,
    "F8E4M3": torch.float8_e4m3fn,
}


def dtype_codes() -> dict[torch.dtype, int]:
    """Every vk_dtype."""
    text = (SOURCES / "core/abi.h").read_text()
    rows = text.partition("enum vk_dtype {")[2].partition("}")[0]
    return {_DTYPES[name]: int(code) for name, code in re.findall(r"VK_(\w+) = (\d+)", rows)}


def macro(header: str, name: str) -> int:
    """A number that ``header`` (``core/abi.h``) defines."""
    found = re.search(rf"#define {name} (\d+)", (SOURCES / header).read_text())
    if found is None:
        raise LookupError(f"csrc/{header} does not define {name}")
    return int(found[1])
