"""Constants of the C ABI, read from its headers."""

from __future__ import annotations

import re
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "csrc"
# PyTorch's names by those of vk_dtype.
_DTYPES = {
    "F32": "float32",
    "BF16": "bfloat16",
    "F16": "float16",
    "I8": "int8",
    "U8": "uint8",
    "I32": "int32",
    "I64": "int64",
    "BOOL": "bool",
    "F64": "float64",
    "F8E4M3": "float8_e4m3fn",
    "F8E8M0": "float8_e8m0fnu",
}


def dtype_codes() -> dict[str, int]:
    """The code of every vk_dtype, by PyTorch's name of the dtype."""
    text = (SOURCES / "core/abi.h").read_text()
    rows = text.partition("enum vk_dtype {")[2].partition("}")[0]
    return {_DTYPES[name]: int(code) for name, code in re.findall(r"VK_(\w+) = (\d+)", rows)}


def macro(header: str, name: str) -> int:
    """A number that ``header`` (``core/abi.h``) defines."""
    found = re.search(rf"#define {name} (\d+)", (SOURCES / header).read_text())
    if found is None:
        raise LookupError(f"csrc/{header} does not define {name}")
    return int(found[1])
