"""Arguments that the channel commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def channel_argument(function: F) -> F:
    return click.argument("channel", type=click.Path(path_type=Path, file_okay=False))(function)
