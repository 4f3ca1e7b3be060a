"""`vllm-conda channel`: one module a command, or a few that belong together."""

from __future__ import annotations

import click

from vllm_conda.cli.lazy import LazyGroup

COMMANDS = {
    "add": "vllm_conda.cli.channel.change:add",
    "bundle": "vllm_conda.cli.channel.carry:bundle",
    "create": "vllm_conda.cli.channel.keep:create",
    "index": "vllm_conda.cli.channel.change:index",
    "keygen": "vllm_conda.cli.channel.sign:keygen",
    "list": "vllm_conda.cli.channel.keep:list_packages",
    "mirror": "vllm_conda.cli.channel.carry:mirror",
    "page": "vllm_conda.cli.channel.page:page",
    "prune": "vllm_conda.cli.channel.change:prune",
    "remove": "vllm_conda.cli.channel.change:remove",
    "sign": "vllm_conda.cli.channel.sign:sign",
    "unbundle": "vllm_conda.cli.channel.carry:unbundle",
    "verify": "vllm_conda.cli.channel.sign:verify",
    "yank": "vllm_conda.cli.channel.change:yank",
}


@click.group(cls=LazyGroup, registry=COMMANDS)
def channel() -> None:
    """Keep a channel: add, yank and prune packages, and carry them to a site.

    \b
    Example:
      vllm-conda channel create /srv/vllm
      vllm-conda channel add /srv/vllm output/
    """
