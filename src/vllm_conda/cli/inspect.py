"""`vllm-conda matrix`, `render`, `lint`, `generate` and `rerender`."""

from __future__ import annotations

from pathlib import Path

import click

from vllm_conda.cli.common import (
    channel_option,
    job_options,
    json_option,
    print_json,
    print_table,
    reporter,
    root_option,
    variant_option,
)


@click.command()
@root_option
@job_options
@json_option
def matrix(root: Path, as_json: bool, **filters: tuple[str, ...]) -> None:
    """List the jobs: what each makes, for which machines, and what it costs.

    \b
    Costs are those that benchmarks/toolkit/bench_jobs.py has measured.

    \b
    Example:
      vllm-conda matrix --platform linux-64 --device cpu
      vllm-conda matrix --json | jq -r '.[].name'
    """
    from vllm_conda.jobs import select
    from vllm_conda.matrix import load_costs, rows, table
    from vllm_conda.targets import load_targets

    targets = load_targets(root)
    found = list(rows(targets, load_costs(root), select(targets, **filters)))
    if as_json:
        print_json([row.document() for row in found])
        return
    print_table(*table(found))


@click.command()
@root_option
@variant_option
@click.option("--all", "every", is_flag=True, help="Every job of every platform.")
@job_options
@click.option("--lint", is_flag=True, help="Check the rendered whole too, as `vllm-conda lint`.")
@click.option("--embedded", is_flag=True, help="Render for the embedded toolchain channel.")
@channel_option
@json_option
def render(
    root: Path,
    variants: tuple[str, ...],
    every: bool,
    lint: bool,
    embedded: bool,
    channels: tuple[str, ...],
    as_json: bool,
    **filters: tuple[str, ...],
) -> None:
    """Show each job's packages: file name with hash, variant, dependencies.

    \b
    Without a channel, hashes are those of the variant files alone; with --channel or
    --embedded, those that `build` makes against it. Without a choice of jobs: those that
    `build` makes, this machine's CPU packages.

    \b
    Example:
      vllm-conda render --variant linux-64-cpu-x86-64-v4
      vllm-conda render --all --lint
    """
    from vllm_conda.builder.channel import toolchain_for
    from vllm_conda.builder.plan import make_plan
    from vllm_conda.errors import UsageError
    from vllm_conda.jobs import default_jobs, select
    from vllm_conda.recipe import load_recipe
    from vllm_conda.targets import load_targets

    targets = load_targets(root)
    chosen = bool(variants or any(filters.values()))
    if every and chosen:
        raise UsageError("--all and a choice of jobs exclude each other.", "Leave one out.")
    jobs = select(targets, variants, **filters) if chosen or every else default_jobs(targets)
    toolchain = None
    if channels or embedded:
        with reporter(as_json) as report_to:
            toolchain = toolchain_for(jobs[0].platform, channels, report_to)
    outputs = make_plan(load_recipe(root), targets, jobs, toolchain).outputs
    if lint:
        from vllm_conda.lint import check
        from vllm_conda.recipe import check_context

        check_context(root, targets)
        check(targets, outputs)
    if as_json:
        print_json(
            [
                {
                    "job": output.job.name,
                    "package": output.name,
                    "version": output.version,
                    "build": output.build_string,
                    "build_number": output.build_number,
                    "file": output.file_name,
                    "staging": output.staging,
                    "variant": dict(output.variant),
                    "depends": list(output.run),
                    "constrains": list(output.constraints),
                    "fingerprint": output.fingerprint,
                }
                for output in outputs
            ]
        )
        return
    print_table(
        ("job", "file", "depends", "constrains"),
        [(o.job.name, o.file_name, ", ".join(o.run), ", ".join(o.constraints)) for o in outputs],
    )


@click.command()
@root_option
@click.option("--check", is_flag=True, help="Write nothing; fail if a file would change.")
@json_option
def generate(root: Path, check: bool, as_json: bool) -> None:
    """Write the files that targets.toml determines.

    \b
    Example:
      vllm-conda generate --check
    """
    from vllm_conda import generate as generator
    from vllm_conda.targets import load_targets

    targets = load_targets(root)
    changed = [] if check else [str(path) for path in generator.generate(root, targets)]
    count = generator.check(root, targets)
    if as_json:
        print_json({"files": count, "changed": changed})
        return
    for path in changed:
        click.echo(f"wrote {path}")
    click.echo(f"{count} generated files are current.")


@click.command()
@root_option
@json_option
def lint(root: Path, as_json: bool) -> None:
    """Render every job and check the whole: hashes, staging keys, pins, build numbers, names.

    \b
    Example:
      vllm-conda lint
    """
    from vllm_conda.builder.plan import make_plan
    from vllm_conda.jobs import jobs
    from vllm_conda.lint import RULES, check
    from vllm_conda.recipe import check_context, load_recipe
    from vllm_conda.targets import load_targets

    targets = load_targets(root)
    check_context(root, targets)
    plan = make_plan(load_recipe(root), targets, jobs(targets))
    check(targets, plan.outputs)
    if as_json:
        print_json({"jobs": len(plan.jobs), "outputs": len(plan.outputs), "rules": list(RULES)})
        return
    click.echo(f"{len(plan.jobs)} jobs, {len(plan.outputs)} outputs: {len(RULES)} rules hold.")


@click.command()
@root_option
@click.option("--check", is_flag=True, help="Write nothing; fail if a file would change.")
@click.option(
    "--pins",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="conda-forge's conda_build_config.yaml: fail where [feedstock.pins] differs from it.",
)
@json_option
def rerender(root: Path, check: bool, pins: Path | None, as_json: bool) -> None:
    """Write the feedstock's CI files: .ci_support, conda-forge.yml, the workflow.

    \b
    Example:
      vllm-conda rerender --check
    """
    from vllm_conda.feedstock import rerender as feedstock
    from vllm_conda.recipe import load_recipe
    from vllm_conda.targets import load_targets

    targets, recipe = load_targets(root), load_recipe(root)
    if pins is not None:
        feedstock.check_pins(targets, recipe, pins)
    if check:
        changed, count = [], feedstock.check(root, targets, recipe)
    else:
        changed = [str(path) for path in feedstock.rerender(root, targets, recipe)]
        count = len(feedstock.files(targets, recipe))
    if as_json:
        print_json({"files": count, "changed": changed})
        return
    for path in changed:
        click.echo(f"wrote {path}")
    click.echo(f"{count} feedstock files are current.")
