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


def site_options(function: F) -> F:
    """The site, its specs and channels, as `vllm-conda solve` takes them."""
    for option in (
        click.option(
            "--root",
            type=click.Path(path_type=Path, exists=True, file_okay=False),
            help="The checkout whose output/ is the default channel.",
        ),
        click.option(
            "--channel",
            "-c",
            "channels",
            multiple=True,
            metavar="CHANNEL",
            help="Name, address or folder, the first preferred; may be repeated. Default: the "
            "site file's channels, else the checkout's output/ and what it was built against.",
        ),
        click.option(
            "--example", metavar="NAME", help="Take a packaged example instead of SITE.YAML."
        ),
        click.argument("words", nargs=-1, metavar="SITE.YAML [SPEC]..."),
    ):
        function = option(function)
    return function
