"""`vllm-conda engine`: the engine's package and its test."""

from __future__ import annotations

from pathlib import Path

import click

from vllm_conda.cli.common import (
    channel_option,
    json_option,
    output_option,
    print_json,
    print_table,
    reporter,
    root_option,
)
from vllm_conda.platforms import host_platform

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
    """Build vllm-engine and vllm, and their dependencies' channel, into OUTPUT/engine.

    \b
    Example:
      vllm-conda engine build
    """
    from vllm_conda.engine import package

    folder = (output or root / "output") / package.FOLDER
    with reporter(as_json) as report_to:
        made = package.ensure(root, platform, folder, channels, report_to)
    if as_json:
        print_json({"packages": [*map(str, made.packages)], "channels": list(made.channels)})
        return
    for path in made.packages:
        click.echo(path)
    click.echo("`vllm-conda build --engine` puts them beside the kernels and prints how to serve.")


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
@click.option(
    "--python",
    metavar="PROGRAM",
    help="Python that finds the engine and the kernels; default: one solved from OUTPUT.",
)
@click.option(
    "--jobs",
    "at_once",
    type=click.IntRange(0),
    default=0,
    help="Processes at a time, spread over the GPUs; default: 1 on a CPU, else what cores and the "
    "GPUs' memory have room for.",
)
@click.option(
    "--timeout",
    "seconds",
    type=click.FloatRange(1),
    default=3600.0,
    show_default=True,
    help="Seconds after which a process counts as failed.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="TEXT",
    help="Runs whose names have its words, such as lora or 'llama_gptq bfloat16'; may be repeated.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on after a run that was stopped: what its results have right is not run again.",
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
    python: str | None,
    at_once: int,
    seconds: float,
    only: tuple[str, ...],
    resume: bool,
    as_json: bool,
) -> None:
    """Run the engine in an environment solved from our channels; compare with transformers.

    \b
    Needs the packages of `./run build`, or with --python an environment that has the engine and the
    kernels (VLLM_KERNELS_LIBRARY_DIR names a build tree's). Results: OUTPUT.build/engine-test.json,
    with --device cuda OUTPUT.build/engine-test-cuda.json, written as each process ends. What
    the checkout's table of runs does not have yet comes first.

    \b
    Example:
      vllm-conda engine test --full
      vllm-conda engine test --device cuda --model llama --model qwen3
      vllm-conda engine test --device cuda --full --python python3 --jobs 8
      vllm-conda engine test --device cuda --full --python python3 --jobs 8 --resume
    """
    from dataclasses import replace
    from functools import partial

    from vllm_conda.engine import cases, matrix, runs
    from vllm_conda.errors import ConfigError, UsageError, did_you_mean

    known = cases.EVERY
    for model in models:
        if model not in known:
            raise UsageError(
                f"Unknown model {model!r}.{did_you_mean(model, known)}",
                f"Models: {', '.join(known)}.",
            )
    folder = output or root / "output"
    options = cases.Options(
        root, folder, platform, channels, models, full, device,
        at_once=at_once, seconds=seconds, only=only, resume=resume,
        recorded=partial(matrix.known_right, root),
    )  # fmt: skip
    if why := cases.why_none(replace(options, gpus=2)):
        raise UsageError(why)
    with reporter(as_json) as report_to:
        if python:
            found = runs.in_environment(python, options, report_to)
        else:
            from vllm_conda.engine import testing

            if not (folder / platform / "repodata.json").is_file():
                raise ConfigError(
                    f"{folder} is no channel with packages for {platform}.",
                    "Run `./run build` first, or name a --python that finds engine and kernels.",
                )
            found = testing.run(options, report_to)
    if as_json:
        print_json(found)
        return
    print_table(("run", "mode", "found", "time"), runs.table(found["rows"]))


@engine.command("record")
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@root_option
@json_option
def record(results: tuple[Path, ...], root: Path, as_json: bool) -> None:
    """Put results of `engine test` into the checkout's table of what has been run.

    \b
    RESULTS are files that the test wrote, here or on another machine. A cell that is recorded
    already is replaced, and what a full test makes beside them is named as not run.
    `vllm-conda generate` writes docs/users/generated/runs.md from the table.

    \b
    Example:
      vllm-conda engine record output.build/engine-test-cuda.json
      vllm-conda generate
    """
    from vllm_conda.engine import matrix

    written = {matrix.record(root, path): None for path in results}
    missing = {root / path: found for path, found in matrix.missing(root).items()}
    if as_json:
        names = {str(path): [" ".join(one.key) for one in missing[path]] for path in written}
        print_json({"written": [*names], "not_run": names})
        return
    for path in written:
        click.echo(path)
        for one in missing[path]:
            click.echo(f"  not run: {' '.join(one.key)}")


@engine.command("diff")
@click.argument("version")
@root_option
@channel_option
@platform_option
@click.option("--all", "everything", is_flag=True, help="Also what asks for nothing.")
@click.option("--report", is_flag=True, help="Where it cannot be fetched, say so and succeed (CI).")
@json_option
def diff(
    version: str,
    root: Path,
    channels: tuple[str, ...],
    platform: str,
    everything: bool,
    report: bool,
    as_json: bool,
) -> None:
    """Compare a release of vLLM with the table of engines; say what it asks for.

    \b
    VERSION is a version, which pip fetches by name, `newest`, or a source distribution. Ops, their
    signatures, call sites, the hooks that the plugin uses, native modules and requirements are
    compared with the nearest release in the table. `must` marks what the engine fails without.

    \b
    Example:
      vllm-conda engine diff newest
      vllm-conda engine diff 0.25.1
      vllm-conda engine diff vllm-0.24.0.tar.gz --all
    """
    from dataclasses import asdict

    from vllm_conda.engine import release
    from vllm_conda.engine.interface import advice
    from vllm_conda.errors import NetworkError

    try:
        with reporter(as_json) as report_to:
            found = release.find(version, root, platform, channels, report_to)
            compared = release.compare(found, root)
    except NetworkError as error:
        if not report:
            raise
        click.echo(f"not compared: {error}")
        return
    tasks = [one for one in compared.tasks if everything or one.urgency != advice.NOTHING]
    if as_json:
        rows = [{**asdict(t.difference), "urgency": t.urgency, "text": t.text} for t in tasks]
        print_json({"version": compared.version, "nearest": compared.nearest, "differences": rows})
        return
    quiet = len(compared.tasks) - len(tasks)
    click.echo(
        f"vLLM {compared.version} against {compared.nearest}: {len(compared.tasks)} differences"
        + (f", {quiet} of which ask for nothing (--all shows them)" if quiet else "")
    )
    for task in tasks:
        one = task.difference
        click.echo(f"{task.urgency:8}{one.kind} {one.place} {one.name}: {one.words()}")
        if task.text:
            click.echo(f"{'':8}{task.text}")


@engine.command("add")
@click.argument("version")
@root_option
@channel_option
@platform_option
@json_option
def add(version: str, root: Path, channels: tuple[str, ...], platform: str, as_json: bool) -> None:
    """Write a release's part of the table of engines, src/vllm_kernels_plugin/engines.tsv.

    \b
    VERSION as for `engine diff`, which says what else the release asks for.

    \b
    Example:
      vllm-conda engine add 0.34.0
    """
    from vllm_conda.engine import release

    with reporter(as_json) as report_to:
        found = release.find(version, root, platform, channels, report_to)
        changed = release.add(found, root)
    if as_json:
        print_json({"version": found.version, "changed": changed})
    else:
        click.echo(f"vLLM {found.version} " + ("added" if changed else "is there, unchanged"))
