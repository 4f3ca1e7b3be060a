"""What the plugin says before the engine sets up its logging: from 0.33 on, after the platform."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

LEVEL_VARIABLE = "VLLM_LOGGING_LEVEL"
ENABLED_VARIABLE = "VLLM_CONFIGURE_LOGGING"
# As the engine's lines.
_FORMAT = "%(levelname)s %(asctime)s [%(filename)s:%(lineno)d] %(message)s"
_DATES = "%m-%d %H:%M:%S"


@contextmanager
def shown(logger: logging.Logger) -> Iterator[None]:
    """Print what ``logger`` is given on standard error, unless somebody else does.

    Python alone would print warnings and errors, and drop which settings the plugin has made.
    """
    if logger.hasHandlers() or os.environ.get(ENABLED_VARIABLE) == "0":
        yield
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(_FORMAT, _DATES))
    level = logging.getLevelName((os.environ.get(LEVEL_VARIABLE) or "INFO").upper())
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level if isinstance(level, int) else logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
