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


@click.command()
@click.argument("target", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@site_options
@click.option(
    "--base",
    "bases",
    multiple=True,
    metavar="BUNDLE|CHANNEL",
    help="What the site has already: an earlier bundle, or its channel's folder; may be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Only say how large it becomes.")
@json_option
def bundle(
    target: Path,
    words: tuple[str, ...],
    example: str | None,
    channels: tuple[str, ...],
    root: Path | None,
    bases: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write FILE, which carries what the node types of SITE.YAML need to a site without network.

    \b
    FILE is a tar archive: packages and their index, a lock and an explicit file a node type,
    checksums, and install.sh, which needs nothing but micromamba, mamba, conda or pixi.

    \b
    Example:
      vllm-conda channel bundle site.tar site.yaml -c ./output -c conda-forge
      vllm-conda channel bundle update.tar site.yaml -c ./output -c conda-forge --base site.tar
    """
    from vllm_conda.channel.bundle import bundle as write_bundle
    from vllm_conda.channel.bundle import estimate

    base = _base(bases)
    wanted = _closure(words, example, channels, root)
    plan = estimate(wanted, base)
    if dry_run and as_json:
        print_json(dataclasses.asdict(plan))
        return
    if not as_json:
        click.echo(
            f"{len(plan.carried)} packages, {len(plan.there)} are there already; "
            f"at most {decimal(plan.size)}"
        )
    if dry_run:
        return
    with reporter(as_json) as report_to:
        made = write_bundle(target, wanted, base, report_to)
    size = target.stat().st_size
    if as_json:
        print_json({"bundle": str(target), "size": size, "nodes": list(made.nodes)})
        return
    click.echo(f"wrote {target} ({decimal(size)}) for {', '.join(made.nodes)}")


def _base(bases: Sequence[str]) -> dict[str, str]:
    from vllm_conda.channel.folder import open_channel
    from vllm_conda.channel.unbundle import base_of, check_bundle

    found: dict[str, str] = {}
    for name in bases:
        if Path(name).is_dir():
            found |= {one.key: one.sha256 for one in open_channel(Path(name)).packages()}
        else:
            found |= base_of({name: check_bundle(Path(name))})
    return found


@click.command()
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("channel", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--address",
    metavar="URL",
    help="What the site's nodes call CHANNEL, for the lock files; default: its file:// address.",
)
@click.option("--check", is_flag=True, help="Only verify FILE, and say what it holds.")
@json_option
def unbundle(
    source: Path, channel: Path | None, address: str | None, check: bool, as_json: bool
) -> None:
    """Verify the bundle FILE and publish its packages in CHANNEL.

    \b
    CHANNEL is made if it is not there. The lock files come into CHANNEL/locks.

    \b
    Example:
      vllm-conda channel unbundle site.tar /srv/vllm --address https://mirror.site/vllm
      vllm-conda channel unbundle site.tar --check
    """
    from vllm_conda.channel.unbundle import check_bundle
    from vllm_conda.channel.unbundle import unbundle as publish_bundle
    from vllm_conda.errors import UsageError

    if check == bool(channel):
        raise UsageError("Either CHANNEL or --check is needed.", "Name the channel to publish in.")
    if channel is None:
        made = check_bundle(source)
        if as_json:
            print_json(
                {"site": made.site, "nodes": list(made.nodes), "packages": len(made.packages)}
            )
            return
        click.echo(f"{source} is whole: {len(made.packages)} packages for {', '.join(made.nodes)}")
        return
    report = publish_bundle(source, channel, address)
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    for key in report.added:
        click.echo(f"added {key}")
    for lock in report.locks:
        click.echo(f"wrote {lock}")
    click.echo(f"{len(report.present)} packages were there; publication {report.serial}")
