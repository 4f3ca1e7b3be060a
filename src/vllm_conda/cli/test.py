"""`vllm-conda test`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from vllm_conda.cli.common import channel_option, json_option, print_json, reporter


@click.command()
@click.argument(
    "packages", nargs=-1, required=True, metavar="PACKAGE...", type=click.Path(path_type=Path)
)
@channel_option
@json_option
def test(packages: tuple[Path, ...], channels: tuple[str, ...], as_json: bool) -> None:
    """Run the tests that travel in finished packages, here.

    \b
    The same file that was built on a machine without a GPU is tested on the GPU host: copy it
    there with its channel folder. Refused where the machine lacks what the package needs, with
    what that is. Ends with the GPUs that the tests ran on, and for vllm-kernels-rocm, which has
    never run on one, with where to say how it went.

    \b
    Example:
      vllm-conda test --channel conda-forge output/linux-64/vllm-kernels-cuda-*-cuda130_sm90_*.conda
    """
    from vllm_conda.builder import proof
    from vllm_conda.builder.channel import toolchain_for
    from vllm_conda.toolchain import PYTORCH_CUDA, offered

    opened = [(path, proof.open_package(path)) for path in packages]
    found = []
    with reporter(as_json) as report_to:
        for path, package in opened:
            cuda = "" if channels else proof.cuda_of(package.depends, offered())
            # Several GB, needed only if the package is not refused.
            gpu = cuda.split(".")[0] == PYTORCH_CUDA.split(".")[0] and bool(proof.gpus())
            toolchain = toolchain_for(str(package.subdir), channels, report_to, [cuda], gpu)
            found.append(proof.prove(path, toolchain, cuda, report_to))
    if as_json:
        print_json([dataclasses.asdict(one) for one in found])
        return
    for one in found:
        where = "; ".join(one.gpus) or "a machine without a GPU"
        click.echo(f"{one.package}: {one.tests} tests passed in {one.seconds} s on {where}")
        if one.report:
            click.echo(
                f"It had never run on a GPU: please say so, with GPU and versions, at {one.report}."
            )
