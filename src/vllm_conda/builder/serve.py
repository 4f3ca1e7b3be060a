"""`vllm-conda build --engine`: the engine beside the kernels, and how to serve with both."""

from __future__ import annotations

from vllm_conda.builder import check, whole
from vllm_conda.builder.channel import Toolchain, toolchain_for
from vllm_conda.builder.pipeline import Options
from vllm_conda.builder.store import Store
from vllm_conda.builder.workspace import locked, workspace_for
from vllm_conda.engine import package
from vllm_conda.packages import serving
from vllm_conda.platforms import host_platform
from vllm_conda.progress import Reporter
from vllm_conda.targets import Targets

ENVIRONMENT = "vllm"


def serve(options: Options, targets: Targets, reporter: Reporter) -> list[str]:
    """Build the engine's packages into the output channel's ``engine``.

    Returns:
        The commands that make an environment for the first job and serve; none where nothing
        serves: on other platforms than this machine's, where there is no engine, and where the
        kernels could not be installed.

    Raises:
        VllmError: As :func:`vllm_conda.engine.package.ensure`; or no installation is found.
    """
    platform, job = host_platform(), options.jobs[0]
    name = serving(job.device)
    if job.platform != platform or not name or not targets.platforms[platform].engine:
        return []
    engine = package.ensure(
        options.root, platform, options.output / package.FOLDER, options.channels, reporter
    )
    toolchain = toolchain_for(platform, options.channels, reporter, [job.toolkit])
    if toolchain.toolkit_fingerprint(job.toolkit):
        # The CUDA build of PyTorch is made when it is asked for.
        return [f"vllm-conda exec --with {name} -- vllm serve MODEL"]
    if not toolchain.glibc:
        channels = (options.output.resolve().as_uri(), engine.channels[0], *toolchain.channels)
    elif whole.is_made(options.output, platform):
        channels = (_local(options, engine, toolchain, name, reporter),)
    else:
        return []
    where = " ".join(f"-c {one}" for one in channels)
    return [
        f"conda create -n {ENVIRONMENT} --override-channels {where} {name}",
        f"conda run -n {ENVIRONMENT} --no-capture-output vllm serve MODEL",
    ]


def _local(
    options: Options,
    engine: package.Engine,
    toolchain: Toolchain,
    name: str,
    reporter: Reporter,
) -> str:
    """Put what ``name`` needs into ``output/local``; returns its address, which suffices alone."""
    platform, workspace = host_platform(), workspace_for(options.root)
    address = whole.local_folder(options.output).resolve().as_uri()
    with (
        locked(workspace, options.output.resolve()),
        reporter.task(f"{name} in {whole.local_folder(options.output)}"),
    ):
        store = Store(options.output, platform, workspace)
        channels = (store.url, *engine.beside(toolchain, ""))
        records = check.installation(channels, name, platform, workspace.rattler)
        whole.make_local(store, name, records)
        check.installation([address], name, platform, workspace.rattler)
    return address
