"""Options and printing that the commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from vllm_conda.paths import project_root
from vllm_conda.progress import Mode, Reporter

F = TypeVar("F", bound=Callable[..., Any])

_PLAIN_WIDTH = 400


def _root(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path:
    return project_root(value)


def root_option(function: F) -> F:
    return click.option(
        "--root",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        callback=_root,
        help="The checkout; default: the nearest folder upwards with targets.toml.",
    )(function)


def output_option(function: F) -> F:
    return click.option(
        "--output",
        type=click.Path(path_type=Path, file_okay=False),
        help="The channel with our packages; default: output/ in the checkout.",
    )(function)


def json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")(
        function
    )


def variant_option(function: F) -> F:
    return click.option(
        "--variant",
        "variants",
        multiple=True,
        metavar="NAME",
        help="A job of `vllm-conda matrix`; may be repeated. Default: all.",
    )(function)


def job_options(function: F) -> F:
    """Filters of jobs, in the keywords of :func:`vllm_conda.jobs.select`."""
    for name, keyword, metavar, help_text in (
        ("--slice", "slices", "NAME", "GPU slices, such as all or sm90; may be repeated."),
        ("--cuda", "cuda", "VERSION", "CUDA versions; may be repeated."),
        ("--device", "devices", "DEVICE", "cpu or cuda; may be repeated."),
        ("--platform", "platforms", "SUBDIR", "Such as linux-64, or all; may be repeated."),
    ):
        function = click.option(name, keyword, multiple=True, metavar=metavar, help=help_text)(
            function
        )
    return function


def channel_option(function: F) -> F:
    return click.option(
        "--channel",
        "-c",
        "channels",
        multiple=True,
        metavar="CHANNEL",
        envvar="VLLM_CONDA_CHANNEL",
        help="Take compilers and libraries from here (name, address or folder; may be repeated) "
        "instead of the embedded toolchain channel.",
    )(function)


def reporter(as_json: bool) -> Reporter:
    return Reporter(Mode.JSON if as_json else None)


def print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table that wraps on a terminal and never does in a pipe."""
    console = Console() if sys.stdout.isatty() else Console(width=_PLAIN_WIDTH)
    table = Table(box=None, pad_edge=False)
    for title in head:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
