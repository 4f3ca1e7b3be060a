"""Running a finished package's own tests, on the machine that it is for."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rattler.exceptions import ParseSubdirError
from rattler.package import AboutJson
from rattler.package_streaming import extract
from rattler.platform import Subdir
from rattler_build import Package, RattlerBuildError

from vllm_conda.builder import check
from vllm_conda.builder.channel import Toolchain
from vllm_conda.builder.diagnose import failure, script_errors
from vllm_conda.builder.logs import JobLog
from vllm_conda.builder.session import run_worker
from vllm_conda.errors import SolveError, TestFailure, UsageError, reason
from vllm_conda.paths import cache_root, disk_errors
from vllm_conda.progress import Reporter
from vllm_conda.site.virtual import AMDGPU, AMDGPU_ARCH
from vllm_conda.solve import virtual_packages
from vllm_cuda_plan.rocm import arch_name


@dataclass(frozen=True)
class Proof:
    """What was run, and on what.

    Attributes:
        tests: Number of tests in the package; all passed.
        gpus: GPUs of this machine as name, capability and driver; empty without one.
        report: Where to say how it went, of a package that has never run on a GPU; else empty.
    """

    package: str
    tests: int
    seconds: float
    gpus: tuple[str, ...]
    log: str
    report: str = ""


def gpus() -> tuple[str, ...]:
    """The machine's GPUs: ``NVIDIA H100 (9.0), driver 580.65.06``, ``AMD gfx942``."""
    return (*_nvidia_gpus(), *_amd_gpus())


def _amd_gpus() -> tuple[str, ...]:
    """The one that counts for the solver: with the most compute units."""
    found = {one.name.normalized: str(one.version) for one in virtual_packages()}
    return (f"AMD {arch_name(found[AMDGPU_ARCH])}",) if AMDGPU_ARCH in found else ()


def _nvidia_gpus() -> tuple[str, ...]:
    if shutil.which("nvidia-smi") is None:
        return ()
    query = "--query-gpu=name,compute_cap,driver_version"
    done = subprocess.run(
        ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return ()
    return tuple(parse_gpus(done.stdout))


def parse_gpus(text: str) -> list[str]:
    """Lines of nvidia-smi's table without header, for people."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line]
    return [f"{row[0]} ({row[1]}), driver {row[2]}" for row in rows if len(row) == 3]


def open_package(path: Path) -> Package:
    """Read a package file.

    Raises:
        UsageError: It does not exist or is no conda package.
    """
    if not path.is_file():
        raise UsageError(f"{path} does not exist.", "Name a .conda file.")
    try:
        package = Package.from_file(path)
        Subdir(str(package.subdir))  # "None" where the package names none
    except (RattlerBuildError, ParseSubdirError, OSError, ValueError) as error:
        raise UsageError(f"{path} is no conda package: {reason(error)}.") from None
    return package


def homepage(path: Path) -> str:
    """Where a package says that it comes from; empty where it does not."""
    with TemporaryDirectory() as folder:
        extract(path, Path(folder))
        pages = AboutJson.from_package_directory(Path(folder)).home
    return str(pages[0]) if pages else ""


def own_channel(path: Path) -> tuple[str, ...]:
    """The channel that the file lies in, if any: it also holds the packages that belong to it."""
    folder = path.resolve().parent
    return (folder.parent.as_uri(),) if (folder / "repodata.json").is_file() else ()


def prove(path: Path, toolchain: Toolchain, cuda: str, reporter: Reporter) -> Proof:
    """Run the tests inside one package.

    Args:
        cuda: CUDA version of the package, whose toolkit channel goes along; empty for none.

    Raises:
        UsageError: No such package.
        SolveError: This machine cannot run it.
        TestFailure: A test failed.
    """
    package = open_package(path)
    channels = [*own_channel(path), *toolchain.channels_for(cuda)]
    platform = str(package.subdir)
    refusal = check.host_refusal(channels, package.depends, platform)
    if refusal:
        raise SolveError(
            f"{path.name} cannot be tested here: {refusal}.",
            "Copy it to a machine that it is for and run the same command there.",
        )
    folder = cache_root() / "proofs" / path.name
    with disk_errors("the tests' folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
    for_amd = any(check.name_of(spec) == AMDGPU for spec in package.depends)
    report = homepage(path) if for_amd else ""
    started = time.monotonic()
    request = {"action": "test", "package": str(path.resolve()), "channels": channels}
    environment = {"RATTLER_CACHE_DIR": str(cache_root() / "rattler")}
    with (
        reporter.task(f"test {path.name}") as task,
        JobLog(folder / "test.log", task) as log,
    ):
        result = run_worker(request, folder, environment, log.event)
        if result["event"] == "error":
            what = f"the test environment of {path.name}"
            raise failure(what, result["message"], log.lines, str(log.path))
        if result["failed"]:
            block = "\n  ".join(script_errors(log.lines))
            say = f" Say so at {report}." if report else ""
            raise TestFailure(
                f"{path.name}: {len(result['failed'])} of {result['tests']} tests failed:"
                f"\n  {block}\n",
                f"Full log: {log.path}.{say}",
            )
    seconds = round(time.monotonic() - started, 2)
    return Proof(path.name, int(result["tests"]), seconds, gpus(), str(log.path), report)


def cuda_of(depends: Sequence[str], offered: Sequence[str]) -> str:
    """The toolkit channel that a package's ``cuda-version`` asks for; empty without one."""
    for spec in depends:
        name, _, version = spec.partition(" ")
        if name == "cuda-version":
            fitting = [one for one in offered if one.split(".")[0] == version.split(".")[0]]
            return fitting[0] if fitting else ""
    return ""
