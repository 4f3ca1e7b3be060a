"""What the plugin says while nobody has set up logging yet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vllm_kernels_plugin import logs

SOURCES = Path(logs.__file__).parents[1]
CODE = """
import logging
from vllm_kernels_plugin import logs
{before}
logger = logging.getLogger("vllm.plugins.vllm_kernels")
with logs.shown(logger):
    logger.debug("a detail")
    logger.info("a setting")
    logger.warning("a warning")
logger.info("afterwards")
print(logger.level, logger.handlers)
"""


def said(before: str = "", **variables: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(before=before)],
        env={"PYTHONPATH": str(SOURCES), **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "0 []\n"
    return done.stderr.splitlines()


def test_before_the_engine_has_set_up_its_logging() -> None:
    setting, warning = said()
    assert setting.startswith("INFO ")
    assert setting.endswith("] a setting")
    assert warning.startswith("WARNING ")


@pytest.mark.parametrize(
    ("level", "lines"), [("debug", 3), ("WARNING", 1), ("ERROR", 0), ("no level", 2)]
)
def test_the_level_that_the_user_wants(level: str, lines: int) -> None:
    assert len(said(VLLM_LOGGING_LEVEL=level)) == lines


def test_without_logging() -> None:
    """Python itself prints warnings, bare."""
    assert said(VLLM_CONFIGURE_LOGGING="0") == ["a warning"]


def test_where_it_is_set_up() -> None:
    before = "logging.basicConfig(level='INFO', format='%(message)s')"
    assert said(before) == ["a setting", "a warning", "afterwards"]
