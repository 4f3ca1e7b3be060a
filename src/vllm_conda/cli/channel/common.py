"""Arguments that the channel commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def channel_argument(function: F) -> F:
    return click.argument("channel", type=click.Path(path_type=Path, file_okay=False))(function)


def grace_option(function: F) -> F:
    return click.option(
        "--grace",
        type=click.FloatRange(min=0),
        default=86400.0,
        metavar="SECONDS",
        help="How long the files stay for clients that have read the last index; default: a day.",
    )(function)
