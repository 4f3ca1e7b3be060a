"""`vllm-conda channel page`."""

from __future__ import annotations

from pathlib import Path

import click

from vllm_conda.cli.channel.common import channel_argument
from vllm_conda.cli.common import json_option, print_json


@click.command()
@channel_argument
@click.argument("site", type=click.Path(path_type=Path, dir_okay=False), metavar="SITE.YAML")
@click.argument("specs", nargs=-1, metavar="[SPEC]...")
@click.option(
    "--channel",
    "-c",
    "others",
    multiple=True,
    metavar="CHANNEL",
    help="What the packages need besides, such as conda-forge; may be repeated. Default: the "
    "site file's channels.",
)
@click.option("--url", default="", metavar="URL", help="Where readers find CHANNEL, if elsewhere.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Default: index.html in CHANNEL.",
)
@json_option
def page(
    channel: Path,
    site: Path,
    specs: tuple[str, ...],
    others: tuple[str, ...],
    url: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Write a page of CHANNEL for the people of a site.

    \b
    One HTML file that loads nothing else: which build of each package every node type of SITE.YAML
    gets or why none, commands to copy, sizes, checksums, and what changed since the page before,
    whose packages are kept in a .json file beside it.

    \b
    Example:
      vllm-conda channel page /srv/vllm site.yaml -c conda-forge --url https://example.org/vllm
    """
    from vllm_conda.page.contents import collect
    from vllm_conda.page.render import write_page
    from vllm_conda.site.model import load_site
    from vllm_conda.solve import channel_address

    loaded = load_site(site)
    base = Path.cwd() if others else site.resolve().parent
    named = [channel_address(one, base) for one in others or loaded.channels]
    own = channel.resolve().as_uri()
    contents = collect(channel, loaded, [one for one in named if one != own], specs, url)
    target = output or channel / "index.html"
    told = write_page(contents, channel, target)
    if as_json:
        print_json(
            {
                "page": str(target),
                "nodes": len(told.rows),
                "packages": len(told.files),
                "added": list(told.changes.added),
                "removed": list(told.changes.removed),
                "yanked": list(told.changes.yanked),
                "restored": list(told.changes.restored),
            }
        )
        return
    click.echo(f"wrote {target}: {len(told.rows)} node types, {len(told.files)} packages")
