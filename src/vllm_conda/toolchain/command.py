"""``vllm-conda toolchain``: make, list or explain the embedded channel."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from vllm_conda.errors import UsageError
from vllm_conda.platforms import host_platform
from vllm_conda.progress import Mode, Reporter
from vllm_conda.toolchain import cuda_pytorch, model, native
from vllm_conda.toolchain import host as host_module
from vllm_conda.toolchain.channel import Channel
from vllm_conda.toolchain.plan import plan, sources_table


def _as_json(channel: Channel) -> str:
    return json.dumps(
        {
            "path": str(channel.path),
            "url": channel.url,
            "fingerprint": channel.fingerprint,
            "packages": [asdict(package) for package in channel.packages],
        },
        indent=2,
    )


@click.command()
@click.option(
    "--platform", default=host_platform, show_default="this machine's", help="conda subdir."
)
@click.option(
    "--cuda-pytorch",
    "cuda_build",
    is_flag=True,
    help="The channel of a CUDA build of PyTorch instead: several GB.",
)
@click.option("--list", "only_list", is_flag=True, help="Say what would be made; make nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def toolchain(platform: str, cuda_build: bool, only_list: bool, as_json: bool) -> None:
    """Make the embedded toolchain channel from pip and apt and print its address.

    A channel that is already there is returned at once.

    \b
    Example:
      vllm-conda toolchain --json
      vllm-conda toolchain --cuda-pytorch
    """
    if cuda_build:
        if only_list:
            raise UsageError("--list and --cuda-pytorch do not go together.", "Leave one out.")
        with Reporter(Mode.JSON if as_json else None) as reporter:
            channel = cuda_pytorch.ensure(platform, reporter=reporter)
        click.echo(_as_json(channel) if as_json else channel.url)
        return
    if only_list:
        _list(platform, as_json)
        return
    with Reporter(Mode.JSON if as_json else None) as reporter:
        if not as_json:
            steps = plan(platform)
            if not steps.ready:
                for row in steps.lines():
                    reporter.line(row)
        channel = native.ensure(platform, reporter=reporter)
    click.echo(_as_json(channel) if as_json else channel.url)


def _list(platform: str, as_json: bool) -> None:
    host = host_module.detect(platform)
    table = sources_table(model.load(), host)
    steps = plan(platform)
    if as_json:
        packages = [
            {"name": name, "source": source, "summary": summary}
            for name, (source, summary) in table.items()
        ]
        rows = {
            "platform": platform,
            "ready": steps.ready,
            "steps": [asdict(step) for step in steps.steps],
            "missing": list(steps.missing),
            "packages": packages,
        }
        click.echo(json.dumps(rows, indent=2))
        return
    for row in steps.lines():
        click.echo(row)
    width = max(len(name) for name in table)
    for name, (source, _) in table.items():
        click.echo(f"{name:<{width}}  {source}")
