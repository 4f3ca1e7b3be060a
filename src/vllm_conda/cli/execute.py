"""`vllm-conda exec`."""

from __future__ import annotations

import re
from pathlib import Path

import click

from vllm_conda.cli.common import channel_option, output_option, root_option
from vllm_conda.packages import CPU, CUDA, FLASHINFER, ROCM, of_device, serving, table
from vllm_conda.platforms import host_platform
from vllm_conda.progress import Reporter


@click.command("exec", context_settings={"ignore_unknown_options": True})
@root_option
@output_option
@channel_option
@click.option(
    "--with",
    "specs",
    multiple=True,
    metavar="SPEC",
    default=lambda: (of_device(CPU),),
    show_default="the CPU's kernels",
    help="A package to install; may be repeated.",
)
@click.option(
    "--virtual",
    multiple=True,
    metavar="NAME=VERSION",
    help="A virtual package to solve for, such as __cuda=13.0 on a machine without a GPU.",
)
@click.option("--platform", default=host_platform, show_default="this machine's")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(
    root: Path,
    output: Path | None,
    channels: tuple[str, ...],
    specs: tuple[str, ...],
    virtual: tuple[str, ...],
    platform: str,
    command: tuple[str, ...],
) -> int:
    """Run COMMAND in an environment solved from the finished packages.

    \b
    The environment is kept and reused while its packages are the same. Of the caller's
    variables only VLLM_*, HF_*, HOME, locale, proxies and terminal reach it, and nothing of its
    PATH. It runs in the folder that you are in, and its exit code is the command's: 128 + the
    number of a signal that ended it. What it leaves running ends with it. With
    vllm-kernels-cuda it takes a CUDA build of PyTorch: several GB, made into a local channel once.

    \b
    Example:
      vllm-conda exec --with vllm-kernels-cpu --with pytest -- python -m pytest tests/kernels
      vllm-conda exec --with vllm-cpu -- vllm serve MODEL
      vllm-conda exec --with vllm-kernels-cuda --virtual __cuda=13.0 -- python -m vllm_kernels
    """
    from vllm_conda.builder.channel import toolchain_for
    from vllm_conda.builder.workspace import workspace_for
    from vllm_conda.engine import package
    from vllm_conda.environment import ensure_environment, run_in
    from vllm_conda.errors import ConfigError, UsageError
    from vllm_conda.flashinfer import package as flashinfer
    from vllm_conda.processes import TEMPORARY, callers_environment
    from vllm_conda.solve import virtual_packages
    from vllm_conda.targets import load_targets
    from vllm_conda.toolchain import PYTORCH_CUDA, rocm_names

    folder = output or root / "output"
    if not (folder / platform / "repodata.json").is_file():
        raise ConfigError(
            f"{folder} is no channel with packages for {platform}.", "Run `./run build` first."
        )
    for word in virtual:
        if not word.startswith("__") or "=" not in word:
            raise UsageError(f"--virtual {word}: want NAME=VERSION, such as __cuda=13.0.")
    # `vllm-kernels-cuda[build=*_sm90_*]` asks for it too.
    names = {re.split(r"[\s=<>!~\[]", spec.strip())[0] for spec in specs}
    gpu = bool(names & {of_device(CUDA), serving(CUDA), FLASHINFER})
    with Reporter() as reporter:
        toolkit = PYTORCH_CUDA if gpu else ROCM if names & rocm_names() else ""
        toolchain = toolchain_for(platform, channels, reporter, [toolkit], gpu)
        found = toolchain.channels_for(toolkit)
        if names & {*package.NAMES, *(name for name, one in table().items() if one.serves)}:
            engine = package.ensure(root, platform, folder / package.FOLDER, channels, reporter)
            found = engine.beside(toolchain, toolkit)
        if names & {*flashinfer.NAMES}:
            targets = load_targets(root)
            choice = flashinfer.choose(targets)
            place = folder / flashinfer.FOLDER
            made = flashinfer.ensure(root, targets, choice, place, channels, reporter)
            found = made.beside(found)
        prefix = ensure_environment(
            [folder.resolve().as_uri(), *found],
            specs,
            platform,
            workspace_for(root),
            reporter,
            virtual_packages(virtual),
        )
    temporary = callers_environment().get(TEMPORARY, "")
    return run_in(prefix, command, Path.cwd(), extra={TEMPORARY: temporary})
