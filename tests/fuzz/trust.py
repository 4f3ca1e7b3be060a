"""What ops trust, by their docstrings: numbers on a GPU that no check on the host could see."""

from __future__ import annotations

from torch import Tensor

from .calls import Call, named
from .memory import plain


def _within(starts: object, size: int) -> bool:
    """Whether starts of parts, and the end of the last, ascend from 0 to at most ``size``."""
    if not isinstance(starts, Tensor) or not plain(starts) or starts.numel() == 0:
        return True
    if starts.dtype.is_floating_point or starts.numel() > 1 << 20:
        return True  # refused
    bounds = starts.flatten().long()
    return bool((bounds.diff() >= 0).all()) and int(bounds[0]) >= 0 and int(bounds[-1]) <= size


def kept(call: Call) -> bool:
    """Whether the call may be made: what the op trusts is so."""
    if call.op != "varlen_attention":
        return True
    given = named(call)
    query, key = given["query"], given["key"]
    if not isinstance(query, Tensor) or not isinstance(key, Tensor):
        return True
    if query.dim() == 0 or key.dim() == 0:
        return True
    return _within(given["query_start_loc"], query.shape[0]) and _within(
        given["key_start_loc"], key.shape[0]
    )
