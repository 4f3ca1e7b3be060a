"""`vllm-conda build`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from vllm_conda.cli.common import (
    channel_option,
    job_options,
    json_option,
    print_json,
    reporter,
    root_option,
    variant_option,
)
from vllm_conda.errors import UsageError


@click.command()
@root_option
@variant_option
@job_options
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="The channel to fill; default: output/ in the checkout.",
)
@channel_option
@click.option(
    "--jobs",
    "-j",
    type=click.IntRange(min=1),
    help="Parallel compile jobs; with --on, the cores of a task.",
)
@click.option("--on", "cluster", type=click.Choice(["slurm"]), help="Build by tasks of a cluster.")
@click.option(
    "--sbatch",
    "extra",
    multiple=True,
    metavar="OPTION",
    help="With --on slurm: an option of sbatch, such as --partition=long; may be repeated.",
)
@click.option("--dry-run", is_flag=True, help="With --on: print the batch scripts and stop.")
@click.option("--engine", is_flag=True, help="Build the engine too, and end with how to serve.")
@click.option("--task", is_flag=True, hidden=True)
@json_option
def build(
    root: Path,
    variants: tuple[str, ...],
    output: Path | None,
    channels: tuple[str, ...],
    jobs: int | None,
    as_json: bool,
    cluster: str | None,
    extra: tuple[str, ...],
    dry_run: bool,
    engine: bool,
    task: bool,
    **filters: tuple[str, ...],
) -> None:
    """Build what changed into an indexed local channel, test it, install it.

    \b
    Makes the embedded toolchain channel first where it is missing. Ends with the
    `conda install` line. Logs: OUTPUT.build/logs/JOB/PACKAGE-build.log. Other platforms are made by
    cross compilers; `./run test-cross` runs their kernels under emulation.

    \b
    Example:
      vllm-conda build --variant linux-64-cpu-x86-64-v3 --jobs 2
      vllm-conda build --device cuda --cuda 13.0 --slice sm90
      vllm-conda build --engine
      vllm-conda build --platform all
      vllm-conda build --platform all --on slurm --sbatch=--partition=long
    """
    from vllm_conda.builder.pipeline import Options
    from vllm_conda.builder.pipeline import build as run
    from vllm_conda.jobs import default_jobs, select
    from vllm_conda.platforms import host_platform
    from vllm_conda.targets import load_targets

    targets = load_targets(root)
    if any(filters.values()):
        if filters["platforms"]:
            # A platform alone means its CPU packages; CUDA's have to be asked for.
            filters["devices"] = filters["devices"] or (("cuda",) if filters["cuda"] else ("cpu",))
        elif not variants:
            filters["platforms"] = (host_platform(),)
    asked = bool(variants or any(filters.values()))
    chosen = select(targets, variants, **filters) if asked else default_jobs(targets)
    options = Options(root, output or root / "output", tuple(chosen), channels, jobs, task)
    if not cluster and (extra or dry_run):
        raise UsageError(
            f"{'--sbatch' if extra else '--dry-run'} says how tasks of a cluster are submitted.",
            "Add --on slurm.",
        )
    if engine and cluster:
        raise UsageError(
            "--engine builds on this machine, --on on a cluster.", "Run `vllm-conda engine build`."
        )
    if dry_run:
        from vllm_conda.cluster.build import Submission, scripts

        click.echo(scripts(options, targets, Submission(extra)), nl=False)
        return
    with reporter(as_json) as report_to:
        if cluster:
            from vllm_conda.cluster.build import Submission
            from vllm_conda.cluster.build import build as on_cluster

            report = on_cluster(options, targets, report_to, Submission(extra))
        else:
            report = run(options, targets, report_to)
        if engine:
            from vllm_conda.builder.serve import serve

            report.serve_commands = serve(options, targets, report_to)
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    for item in report.built:
        click.echo(f"built      {item.package}  ({item.seconds}s; tests {item.tests})")
    for name in report.unchanged:
        click.echo(f"unchanged  {name}")
    for name in report.removed:
        click.echo(f"removed    {name}")
    if report.installed:
        click.echo(f"installed  {', '.join(report.installed)} into a fresh environment")
    click.echo(f"\n{report.seconds}s. Install with:\n  {report.install_command}")
    if report.serve_commands:
        click.echo("Install what serves, and serve:")
    for line in report.serve_commands:
        click.echo(f"  {line}")
