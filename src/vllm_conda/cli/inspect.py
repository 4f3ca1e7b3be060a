"""`vllm-conda matrix`, `render` and `generate`."""

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
    variant_option,
)


@click.command()
@root_option
@json_option
def matrix(root: Path, as_json: bool) -> None:
    """List the jobs: one CI job and one variant file each.

    \b
    Example:
      vllm-conda matrix --json | jq -r '.[].name'
    """
    from vllm_conda.jobs import jobs
    from vllm_conda.targets import load_targets

    targets = load_targets(root)
    rows = []
    for job in jobs(targets):
        level = targets.level(targets.platforms[job.platform].family, job.level)
        rows.append(
            {
                "name": job.name,
                "platform": job.platform,
                "level": job.level,
                "march": level.march,
                "tiers": list(level.tiers),
                "variant_file": job.variant_file,
            }
        )
    if as_json:
        print_json(rows)
        return
    print_table(
        ("job", "platform", "level", "floor", "tiers"),
        [
            (
                str(r["name"]),
                str(r["platform"]),
                str(r["level"]),
                str(r["march"]),
                _join(r["tiers"]),
            )
            for r in rows
        ],
    )


def _join(value: object) -> str:
    return " ".join(str(item) for item in value) if isinstance(value, (list, tuple)) else str(value)


@click.command()
@root_option
@variant_option
@click.option("--embedded", is_flag=True, help="Render for the embedded toolchain channel.")
@channel_option
@json_option
def render(
    root: Path,
    variants: tuple[str, ...],
    embedded: bool,
    channels: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show each job's packages: file name with hash, variant, dependencies.

    \b
    Without a channel, hashes are those of the variant files alone; with --channel or
    --embedded, those that `build` makes against it.

    \b
    Example:
      vllm-conda render --variant linux-64-cpu-x86-64-v4
    """
    from vllm_conda.build.channel import toolchain_for
    from vllm_conda.build.pipeline import make_plan
    from vllm_conda.jobs import select
    from vllm_conda.targets import load_targets

    targets = load_targets(root)
    toolchain = None
    if channels or embedded:
        platform = select(targets, variants)[0].platform
        with reporter(as_json) as report_to:
            toolchain = toolchain_for(platform, channels, report_to)
    outputs = make_plan(root, targets, variants, toolchain).outputs
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
                    "fingerprint": output.fingerprint,
                }
                for output in outputs
            ]
        )
        return
    print_table(
        ("job", "file", "depends"),
        [(output.job.name, output.file_name, ", ".join(output.run)) for output in outputs],
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
    if check:
        count = generator.check(root, targets)
        changed = []
    else:
        changed = [str(path) for path in generator.generate(root, targets)]
        count = sum(1 for _ in generator.generated_files(targets))
    if as_json:
        print_json({"files": count, "changed": changed})
        return
    for path in changed:
        click.echo(f"wrote {path}")
    click.echo(f"{count} generated files are current.")
