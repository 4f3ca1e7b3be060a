"""What `vllm-conda generate` writes from ``targets.toml`` for commands without a checkout."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

FILE = "targets.json"


def read(key: str) -> Any:
    """The tables below ``key``."""
    return json.loads((files(__name__) / FILE).read_text(encoding="utf-8"))[key]
