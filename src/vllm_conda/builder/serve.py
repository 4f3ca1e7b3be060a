"""`vllm-conda build --engine`: the engine beside the kernels, and how to serve with both."""

from __future__ import annotations

from vllm_conda.builder.channel import toolchain_for
from vllm_conda.builder.pipeline import Options
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
        serves: on other platforms than this machine's, and where there is no engine.

    Raises:
        VllmError: As :func:`vllm_conda.engine.package.ensure`.
    """
    platform, job = host_platform(), options.jobs[0]
    if job.platform != platform or not targets.platforms[platform].engine:
        return []
    engine = package.ensure(
        options.root, platform, options.output / package.FOLDER, options.channels, reporter
    )
    toolchain = toolchain_for(platform, options.channels, reporter, [job.cuda] if job.cuda else [])
    channels = (options.output.resolve().as_uri(), *engine.beside(toolchain, job.cuda))
    where = " ".join(f"-c {one}" for one in channels)
    name = serving(job.device)
    if toolchain.cuda_fingerprint(job.cuda):
        # The CUDA build of PyTorch is made when it is asked for.
        return [f"vllm-conda exec --with {name} -- vllm serve MODEL"]
    return [
        f"conda create -n {ENVIRONMENT} --override-channels {where} {name}",
        f"conda run -n {ENVIRONMENT} --no-capture-output vllm serve MODEL",
    ]
