"""Carrying packages to a site: `mirror`, `bundle`, `unbundle`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.filesize import decimal

from vllm_conda.cli.channel.common import channel_argument, site_options
from vllm_conda.cli.common import json_option, print_json, reporter

if TYPE_CHECKING:
    from vllm_conda.channel.closure import Closure


def _closure(
    words: Sequence[str], example: str | None, channels: Sequence[str], root: Path | None
) -> Closure:
    from vllm_conda.channel.closure import closure
    from vllm_conda.cli.solve import check_specs, site_and_specs, site_channels
    from vllm_conda.site.model import load_site

    path, specs = site_and_specs(words, example)
    site = load_site(path)
    check_specs(specs)
    return closure(site, site_channels(site, path, channels, root), specs)


@click.command()
@channel_argument
@site_options
@click.option("--dry-run", is_flag=True, help="Only say what would be fetched.")
@json_option
def mirror(
    channel: Path,
    words: tuple[str, ...],
    example: str | None,
    channels: tuple[str, ...],
    root: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Fetch what the node types of SITE.YAML need into CHANNEL.

    \b
    Only what each node type is solved to. Every file is checked against its channel's index and
    read from end to end. Run it again after a stop: what has come is not fetched twice.

    \b
    Example:
      vllm-conda channel mirror /srv/vllm site.yaml -c ./output -c conda-forge
    """
    from vllm_conda.channel.folder import open_channel
    from vllm_conda.channel.mirror import mirror as mirror_packages

    folder = open_channel(channel)
    wanted = _closure(words, example, channels, root)
    if dry_run:
        there = {one.key for one in folder.packages()}
        todo = {key: one.size or 0 for key, one in wanted.records.items() if key not in there}
        if as_json:
            print_json({"fetch": todo, "size": sum(todo.values())})
            return
        for key, size in todo.items():
            click.echo(f"would fetch {key} ({decimal(size)})")
        click.echo(f"{len(todo)} packages, {decimal(sum(todo.values()))}")
        return
    with reporter(as_json) as report_to:
        report = mirror_packages(folder, wanted, report_to)
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    click.echo(
        f"{len(report.fetched)} packages came ({decimal(report.size)}), "
        f"{len(report.present)} were there; publication {report.serial}"
    )
