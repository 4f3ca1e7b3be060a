"""Version and requirements of this package, from where they are recorded.

``targets.toml`` is the source. An installed package carries them in its dist-info, which both the
wheel and the conda build write; a checkout put on ``sys.path`` reads the table itself.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

DISTRIBUTION = "vllm-kernels"


def _checkout_table() -> str | None:
    """Text of ``targets.toml`` where this file lies in a checkout's ``src``, else None."""
    source = Path(__file__).resolve().parents[1]
    table = source.parent / "targets.toml"
    return table.read_text(encoding="utf-8") if source.name == "src" and table.is_file() else None


def _from_table(table: str, key: str) -> str:
    # Reading a scalar needs no TOML parser, which Python has only from 3.11 on.
    match = re.search(rf'^{key} = "([^"]+)"', table, re.MULTILINE)
    if match is None:
        raise RuntimeError(f"targets.toml: the key {key!r} is missing")
    return match[1]


def version() -> str:
    """Version of the package, which is that of the engine that it serves."""
    table = _checkout_table()
    if table is not None:
        return _from_table(table, "version")
    return importlib.metadata.version(DISTRIBUTION)


def torch_minimum() -> str:
    """Oldest PyTorch that the libraries can be loaded into, such as ``2.11``."""
    table = _checkout_table()
    if table is not None:
        return _from_table(table, "torch_target")
    for requirement in importlib.metadata.requires(DISTRIBUTION) or []:
        if match := re.match(r"torch\s*>=\s*([0-9.]+)", requirement):
            return match[1]
    raise RuntimeError(f"the metadata of {DISTRIBUTION} names no torch requirement")
