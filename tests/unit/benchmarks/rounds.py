"""A round of an engine's benchmark, as its program reports it."""

from __future__ import annotations

from typing import Any

ROUND = {
    "tokens_per_second": 10.0,
    "decode_tokens_per_second": 20.0,
    "first_token": 0.5,
    "between_tokens": 0.1,
}
FOUND: dict[str, Any] = {"step_bytes": 1000, "rounds": [ROUND]}
