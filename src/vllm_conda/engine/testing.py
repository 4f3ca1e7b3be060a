"""The engine on the finished packages: small models against transformers, and its server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from vllm_conda.builder.workspace import workspace_for
from vllm_conda.engine import files, package, runs, sdist
from vllm_conda.engine.cases import Options
from vllm_conda.engine.interface.table import load as load_engines
from vllm_conda.environment import ensure_environment, run_in
from vllm_conda.errors import SolveError, TestFailure
from vllm_conda.packages import CPU, CUDA, serving
from vllm_conda.paths import disk_errors
from vllm_conda.progress import Reporter
from vllm_conda.solve import virtual_packages
from vllm_conda.targets import load_targets

# What a user asks for, and nothing beside it.
SPECS = {device: (serving(device),) for device in (CPU, CUDA)}
FILES_CHECK = Path("recipe/engine/tests/check_engine.py")
# A build tree, a forced tier or another plugin mode of the caller would test something else.
CLEARED = (
    "VLLM_KERNELS_ALL_REDUCE",
    "VLLM_KERNELS_ATTENTION",
    "VLLM_KERNELS_BACKEND",
    "VLLM_KERNELS_CPU_COMPACT",
    "VLLM_KERNELS_CPU_ISA",
    "VLLM_KERNELS_DEVICE",
    "VLLM_KERNELS_ENGINE",
    "VLLM_KERNELS_LIBRARY_DIR",
    "VLLM_KERNELS_PLUGIN",
    "VLLM_PLUGINS",
)


def run(options: Options, reporter: Reporter) -> dict[str, Any]:
    """Run every case; return the document of what each found.

    Raises:
        TestFailure: A run failed or gave wrong tokens, or the engine's files are not upstream's.
        SolveError: There is no GPU to run on.
        VllmError: The engine's package or environment could not be made.
    """
    virtual = virtual_packages()
    if options.device == "cuda" and "__cuda" not in {one.name.normalized for one in virtual}:
        raise SolveError(
            "The engine's test on CUDA needs a GPU; this machine has no NVIDIA driver.",
            "Copy the checkout and output/ to a GPU host and run the same command there.",
        )
    engine = package.ensure(
        options.root, options.platform, options.output / package.FOLDER, options.channels, reporter
    )
    workspace = workspace_for(options.root)
    channels = [options.output.resolve().as_uri(), *engine.channels]
    prefix = ensure_environment(
        channels, SPECS[options.device], options.platform, workspace, reporter, virtual
    )

    def start(
        words: Sequence[str], folder: Path, log: IO[str], more: Mapping[str, str], limit: float
    ) -> int:
        cleared = dict.fromkeys(CLEARED, "")
        return run_in(prefix, words, folder, log, {**cleared, **more}, limit)

    folder = workspace.folder / "engine-test"
    place = runs.Place(start, folder, runs.logs(options), runs.result_path(options))
    with disk_errors("the test's folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
    registry = sdist.Registry(engine.channels, options.platform, workspace, reporter)
    release = load_targets(options.root).engine.release
    archive = registry.pinned(release, load_engines(options.root))
    _check_files(prefix, archive.path, place, options, reporter)
    return runs.run(place, options, reporter)


def _check_files(
    prefix: Path, archive: Path, place: runs.Place, options: Options, reporter: Reporter
) -> None:
    """Upstream's files, no other, and what they require."""
    path = place.log("files")
    with reporter.task("compare the engine's files with upstream's") as task, path.open("w") as log:
        same, problems = files.differences(prefix, archive)
        log.writelines(f"{line}\n" for line in problems)
        log.flush()
        check = ["python", str(options.root / FILES_CHECK)]
        code = place.start(check, place.folder, log, {}, options.seconds)
        task.status(f"{same} files the same, {len(problems)} not")
    if code or problems:
        raise TestFailure(
            "The installed engine is not upstream's: " + runs.last_line(path), f"Full log: {path}"
        )
