"""Making and listing a channel."""

from __future__ import annotations

from pathlib import Path

import click

from vllm_conda.cli.channel.common import channel_argument
from vllm_conda.cli.common import json_option, print_json, print_table


@click.command()
@channel_argument
@json_option
def create(channel: Path, as_json: bool) -> None:
    """Make the folder CHANNEL a channel.

    \b
    Example:
      vllm-conda channel create /srv/vllm
    """
    from vllm_conda.channel import folder

    made = folder.create(channel)
    if as_json:
        print_json({"channel": made.url})
    else:
        click.echo(made.url)


@click.command("list")
@channel_argument
@json_option
def list_packages(channel: Path, as_json: bool) -> None:
    """List the packages of CHANNEL, the yanked ones with their reason.

    \b
    Example:
      vllm-conda channel list /srv/vllm
    """
    from vllm_conda.channel.folder import open_channel

    packages = open_channel(channel).packages()
    if as_json:
        print_json(
            [
                {
                    "subdir": one.subdir,
                    "file": one.file_name,
                    "sha256": one.sha256,
                    "size": one.size,
                    "yanked": one.yanked.reason if one.yanked else None,
                }
                for one in packages
            ]
        )
        return
    rows = [
        (one.subdir, one.file_name, str(one.size), one.yanked.reason if one.yanked else "")
        for one in packages
    ]
    print_table(("subdir", "package", "bytes", "yanked because"), rows)
