"""`vllm-conda engine`: the engine's package and its test."""

from __future__ import annotations

from pathlib import Path

import click

from vllm_conda.cli.common import (
    channel_option,
    json_option,
    print_json,
    print_table,
    reporter,
    root_option,
)
from vllm_conda.platforms import host_platform

output_option = click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="The channel with our packages; default: output/ in the checkout.",
)
platform_option = click.option("--platform", default=host_platform, show_default="this machine's")


@click.group()
def engine() -> None:
    """Package an unmodified vLLM engine and run it on the kernels.

    \b
    Example:
      vllm-conda engine build
    """


@engine.command("build")
@root_option
@output_option
@channel_option
@platform_option
@json_option
def build(
    root: Path, output: Path | None, channels: tuple[str, ...], platform: str, as_json: bool
) -> None:
    """Build vllm-engine, and its dependencies' channel, into OUTPUT/engine.

    \b
    Example:
      vllm-conda engine build
    """
    from vllm_conda.engine import package

    folder = (output or root / "output") / "engine"
    with reporter(as_json) as report_to:
        made = package.ensure(root, platform, folder, channels, report_to)
    if as_json:
        print_json({"package": str(made.package), "channels": list(made.channels)})
        return
    words = " ".join(f"-c {channel}" for channel in made.channels)
    click.echo(f"{made.package}\nInstall with, besides our own channel:\n  {words}")


@engine.command("test")
@root_option
@output_option
@channel_option
@platform_option
@click.option("--full", is_flag=True, help="Every model, type and mode; about an hour on 2 cores.")
@click.option("--model", "models", multiple=True, help="A model to run; may be repeated.")
@click.option(
    "--device",
    type=click.Choice(("cpu", "cuda")),
    default="cpu",
    show_default=True,
    help="What to run on; cuda needs a GPU.",
)
@json_option
def test(
    root: Path,
    output: Path | None,
    channels: tuple[str, ...],
    platform: str,
    full: bool,
    models: tuple[str, ...],
    device: str,
    as_json: bool,
) -> None:
    """Run the engine in an environment solved from our channels; compare with transformers.

    \b
    Needs the packages of `./run build`. Results: OUTPUT/engine-test.json, with --device cuda
    OUTPUT/engine-test-cuda.json.

    \b
    Example:
      vllm-conda engine test --full
      vllm-conda engine test --device cuda --model llama --model qwen3
    """
    from vllm_conda.engine import testing
    from vllm_conda.errors import ConfigError, UsageError, did_you_mean

    for model in models:
        if model not in testing.MODELS:
            raise UsageError(
                f"Unknown model {model!r}.{did_you_mean(model, testing.MODELS)}",
                f"Models: {', '.join(testing.MODELS)}.",
            )
    folder = output or root / "output"
    if not (folder / platform / "repodata.json").is_file():
        raise ConfigError(
            f"{folder} is no channel with packages for {platform}.", "Run `./run build` first."
        )
    options = testing.Options(root, folder, platform, channels, models, full, device)
    with reporter(as_json) as report_to:
        rows = testing.run(options, report_to)
    if as_json:
        print_json(rows)
        return
    print_table(("run", "mode", "found", "time"), testing.table(rows))
