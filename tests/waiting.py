"""Wait for what other processes do by so many looks, not by the clock.

Whoever pauses a machine, or gives it to others, spends a deadline in the tests' stead.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

_BETWEEN = 0.05


def until(state: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether ``state`` comes true while this process has looked for so many seconds."""
    for _ in range(round(seconds / _BETWEEN)):
        if state():
            return True
        time.sleep(_BETWEEN)
    return state()


def wait_for(file: Path, text: str, seconds: float = 60.0) -> None:
    """Return once ``file`` holds ``text``."""
    appeared = until(lambda: file.is_file() and text in file.read_text(), seconds)
    assert appeared, f"{text!r} never appeared in {file}"
