"""`vllm-conda flashinfer`: its packages."""

from __future__ import annotations

from pathlib import Path

import click

from vllm_conda.cli.common import (
    channel_option,
    json_option,
    output_option,
    print_json,
    reporter,
    root_option,
)


@click.group()
def flashinfer() -> None:
    """Package FlashInfer, its modules compiled ahead of time.

    \b
    Example:
      vllm-conda flashinfer build
    """


@flashinfer.command("build")
@root_option
@click.option("--cuda", metavar="VERSION", default="", help="Default: that of the PyTorch we make.")
@click.option(
    "--modules", metavar="SET", default="", help="A set of targets.toml's [flashinfer.sets]."
)
@click.option("--release", metavar="VERSION", default="", help="Default: what the engine pins.")
@output_option
@channel_option
@click.option("--jobs", "-j", type=click.IntRange(min=1), help="Parallel compile jobs.")
@json_option
def build(
    root: Path,
    cuda: str,
    modules: str,
    release: str,
    output: Path | None,
    channels: tuple[str, ...],
    jobs: int | None,
    as_json: bool,
) -> None:
    """Build flashinfer-python and vllm-flashinfer into OUTPUT/flashinfer. Needs no GPU.

    \b
    Example:
      vllm-conda flashinfer build
      vllm-conda flashinfer build --modules attention --jobs 4
    """
    from vllm_conda.flashinfer import package
    from vllm_conda.targets import load_targets

    targets = load_targets(root)
    choice = package.choose(targets, cuda, modules, release)
    folder = (output or root / "output") / package.FOLDER
    with reporter(as_json) as report_to:
        made = package.ensure(root, targets, choice, folder, channels, report_to, jobs)
    if as_json:
        print_json({"packages": [*map(str, made.packages)], "channels": list(made.channels)})
        return
    for path in made.packages:
        click.echo(path)
