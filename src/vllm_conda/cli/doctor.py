"""`vllm-conda doctor`."""

from __future__ import annotations

import dataclasses

import click

from vllm_conda.cli.common import channel_option, json_option, print_json, print_table
from vllm_conda.errors import MissingToolError


@click.command()
@channel_option
@json_option
def doctor(channels: tuple[str, ...], as_json: bool) -> None:
    """Say what this machine lacks for a build, and how to get it.

    \b
    Exit code 0 when nothing is missing, 5 otherwise. With --channel, what only the embedded
    toolchain channel needs (pip, apt) is not asked for.

    \b
    Example:
      vllm-conda doctor --json
    """
    from vllm_conda.doctor import diagnose

    found = diagnose(embedded=not channels)
    missing = [finding.name for finding in found if finding.state == "missing"]
    if as_json:
        print_json({"ok": not missing, "findings": [dataclasses.asdict(item) for item in found]})
        if missing:
            raise click.exceptions.Exit(MissingToolError.exit_code)
        return
    print_table(
        ("state", "what", "found", "how to get it"),
        [(item.state, item.name, item.detail, item.hint) for item in found],
    )
    if missing:
        raise MissingToolError(
            f"This machine lacks: {', '.join(missing)}.", "See the last column above."
        )
