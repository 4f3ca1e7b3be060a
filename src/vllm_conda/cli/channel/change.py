"""Changing what a channel holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from vllm_conda.cli.channel.common import channel_argument, grace_option
from vllm_conda.cli.common import json_option, print_json


@click.command()
@channel_argument
@click.argument(
    "packages", nargs=-1, required=True, metavar="PACKAGE...", type=click.Path(path_type=Path)
)
@json_option
def add(channel: Path, packages: tuple[Path, ...], as_json: bool) -> None:
    """Add packages, or all packages of folders such as output/, to CHANNEL.

    \b
    Each is read from end to end first: its hash, if its folder has an index, its files, and
    that nothing leaves the prefix. One that is bad leaves the channel as it was.

    \b
    Example:
      vllm-conda channel add /srv/vllm output/ /mnt/arm-machine/output/
    """
    from vllm_conda.channel.add import add as add_packages
    from vllm_conda.channel.add import sources
    from vllm_conda.channel.folder import open_channel

    report = add_packages(open_channel(channel), sources(packages))
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    for key in report.added:
        click.echo(f"added {key}")
    for key in report.present:
        click.echo(f"there already: {key}")
    click.echo(f"publication {report.serial}")


@click.command()
@channel_argument
@json_option
def index(channel: Path, as_json: bool) -> None:
    """Check every file of CHANNEL, take in files without a record, and write the index.

    \b
    The other commands index by themselves. This one is for a channel that was changed by hand
    or damaged, or whose publisher was killed where the file system has no locks.

    \b
    Example:
      vllm-conda channel index /srv/vllm
    """
    from vllm_conda.channel.folder import ChannelFolder
    from vllm_conda.channel.rebuild import rebuild

    report = rebuild(ChannelFolder(channel))
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    for key in report.added:
        click.echo(f"added {key}")
    click.echo(f"publication {report.serial}")


@click.command()
@channel_argument
@click.argument("packages", nargs=-1, required=True, metavar="PACKAGE...")
@click.option("--reason", metavar="TEXT", help="Why, for those who ask; needed but with --undo.")
@click.option("--undo", is_flag=True, help="Offer the packages again.")
@json_option
def yank(
    channel: Path, packages: tuple[str, ...], reason: str | None, undo: bool, as_json: bool
) -> None:
    """Offer packages of CHANNEL to no solver any more, but keep their files.

    \b
    Locks and explicit files that name them go on to work. PACKAGE is a file name.

    \b
    Example:
      vllm-conda channel yank /srv/vllm vllm-kernels-cpu-1.0.0-h7919e62_300.conda --reason 'wrong'
    """
    from vllm_conda.channel import retire
    from vllm_conda.channel.folder import open_channel
    from vllm_conda.errors import UsageError

    if bool(reason) == undo:
        raise UsageError(
            "A yank needs a reason, its undoing none.", "Give --reason TEXT or --undo."
        )
    folder = open_channel(channel)
    if undo:
        _say(retire.offer_again(folder, packages), "offered again", as_json)
    else:
        _say(retire.yank(folder, packages, reason or ""), "yanked", as_json)


@click.command()
@channel_argument
@click.argument("packages", nargs=-1, required=True, metavar="PACKAGE...")
@click.option("--reason", metavar="TEXT", required=True, help="Why.")
@grace_option
@json_option
def remove(
    channel: Path, packages: tuple[str, ...], reason: str, grace: float, as_json: bool
) -> None:
    """Take packages out of CHANNEL; their files go when --grace is over.

    \b
    Locks that name them fail then: `vllm-conda channel yank` keeps them working.

    \b
    Example:
      vllm-conda channel remove /srv/vllm vllm-kernels-cpu-1.0.0-h7919e62_300.conda --reason leak
    """
    from vllm_conda.channel import retire
    from vllm_conda.channel.folder import open_channel

    _say(retire.remove(open_channel(channel), packages, reason, grace), "removed", as_json)


@click.command()
@channel_argument
@click.option(
    "--keep",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="How many stay of each package for the same machines.",
)
@click.option(
    "--lock",
    "locks",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Keep what this lock or explicit file names; may be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@grace_option
@json_option
def prune(
    channel: Path, keep: int, locks: tuple[Path, ...], dry_run: bool, grace: float, as_json: bool
) -> None:
    """Remove old packages of CHANNEL, but not what locks name nor what the kept ones need.

    \b
    Example:
      vllm-conda channel prune /srv/vllm --keep 2 --lock locks/gpu.lock --lock locks/cpu.txt
    """
    from vllm_conda.channel.folder import open_channel
    from vllm_conda.channel.prune import prune as prune_channel

    report = prune_channel(open_channel(channel), keep, locks, grace, dry_run)
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    for key in report.removed:
        click.echo(f"{'would remove' if dry_run else 'removed'} {key}")
    click.echo(f"{len(report.removed)} packages, {report.size} bytes; {report.kept} stay")


def _say(keys: list[str], what: str, as_json: bool) -> None:
    if as_json:
        print_json({what.replace(" ", "_"): keys})
        return
    for key in keys:
        click.echo(f"{what} {key}")
