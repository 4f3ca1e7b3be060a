"""Files written from ``targets.toml`` (and the exit-code table from ``errors.py``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vllm_conda import generated
from vllm_conda.engine import absent, matrix
from vllm_conda.engine.interface.table import FILE as ENGINES_FILE
from vllm_conda.errors import StaleFileError
from vllm_conda.feedstock.config import conda_build_config
from vllm_conda.generate import build, pages, switches
from vllm_conda.generate.cuda_page import cuda_page
from vllm_conda.generate.text import COMMAND, header
from vllm_conda.generate.variants import variant_file
from vllm_conda.jobs import jobs
from vllm_conda.matrix import Costs, load_costs
from vllm_conda.paths import write_atomic
from vllm_conda.targets import TARGETS_FILE, Targets

VARIANT_FOLDER = "variants"
GENERATED = Path("src/vllm_conda/generated")
ABSENT_PAGE = Path("docs/developers/generated/absent.md")


def generated_files(
    targets: Targets, costs: Costs | None = None, options: str = "", pyproject: str = ""
) -> Iterator[tuple[Path, str]]:
    """Yield every generated file's path, relative to the project, and its text.

    Args:
        costs: What was measured of the jobs.
        options: Text of cmake/Options.cmake; without it, there is no page of build options.
        pyproject: Text of pyproject.toml; without it, CMake's facts of the project are left out.
    """
    for job in jobs(targets):
        yield Path(job.variant_file), variant_file(targets, job)
    yield Path("conda_build_config.yaml"), header("#") + conda_build_config(targets)
    yield Path("cmake/generated/platforms.cmake"), build.platforms_cmake(targets)
    yield Path("cmake/generated/tiers.cmake"), build.tiers_cmake(targets)
    yield Path("src/vllm_cuda_plan/table.json"), build.cuda_json(targets)
    yield Path("csrc/cpu/generated/families.inc"), build.families_inc(targets)
    yield Path("csrc/cpu/generated/tiers.inc"), build.tiers_inc(targets)
    yield GENERATED / "version.py", build.version_py(targets)
    yield GENERATED / generated.FILE, build.targets_json(targets)
    yield Path("docs/packagers/generated/targets.md"), pages.targets_page(targets)
    comment = f"<!--{header('').rstrip()} -->\n"
    yield Path("docs/packagers/generated/cuda.md"), comment + cuda_page(targets.cuda)
    yield Path("docs/packagers/generated/matrix.md"), pages.matrix_page(targets, costs or Costs())
    yield Path("docs/packagers/exit-codes.md"), pages.exit_codes_page()
    yield Path("docs/users/environment.md"), pages.environment_page()
    if pyproject:
        yield Path("cmake/generated/project.cmake"), build.project_cmake(targets, pyproject)
    if options:
        yield Path("docs/packagers/options.md"), pages.options_page(options)


def generate(root: Path, targets: Targets) -> list[Path]:
    """Write the files that differ and remove variant files without a job; return them."""
    changed = _stale(root, targets)
    files = _files(root, targets)
    for path in changed:
        if path in files:
            write_atomic(root / path, files[path])
        else:
            (root / path).unlink()
    return changed


def check(root: Path, targets: Targets) -> int:
    """Return how many files were compared.

    Raises:
        StaleFileError: Names the files that differ and the command that rewrites them.
    """
    changed = _stale(root, targets)
    if changed:
        names = ", ".join(str(path) for path in changed)
        raise StaleFileError(
            f"{names}: not what {TARGETS_FILE} generates.",
            f"Run `{COMMAND}` and commit the result.",
        )
    return len(_files(root, targets))


def _files(root: Path, targets: Targets) -> dict[Path, str]:
    options = _read(root / switches.OPTIONS_FILE) or ""
    pyproject = _read(root / build.PYPROJECT_FILE) or ""
    files = dict(generated_files(targets, load_costs(root), options, pyproject))
    if (root / absent.FILE).is_file():
        head = header("", f"{absent.FILE}, {absent.OPS_FILE} and {ENGINES_FILE}").rstrip()
        files[ABSENT_PAGE] = f"<!--{head} -->\n{absent.page(root)}"
    if (root / matrix.FOLDER).is_dir():
        head = header("", str(matrix.FOLDER)).rstrip()
        files[matrix.PAGE] = f"<!--{head} -->\n{matrix.page(root)}"
    return files


def _stale(root: Path, targets: Targets) -> list[Path]:
    files = _files(root, targets)
    changed = [path for path, text in files.items() if _read(root / path) != text]
    present = (path.relative_to(root) for path in (root / VARIANT_FOLDER).glob("*.yaml"))
    return changed + sorted(path for path in present if path not in files)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return None
