"""A checkout with the real recipe and table, small sources and a channel of dummy packages.

Rendering, staging, packaging, testing, publishing and solving are the real ones; only what
compiles is replaced, so that a whole build takes seconds and needs no network.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from rattler_build import Stage0Recipe, ToolConfiguration, VariantConfig

from vllm_conda import __version__
from vllm_conda.builder.commit import origin
from vllm_conda.builder.pipeline import Built, Options, Report
from vllm_conda.builder.pipeline import build as run_build
from vllm_conda.builder.plan import Plan, make_plan
from vllm_conda.builder.upstream import Upstream
from vllm_conda.builder.workspace import workspace_for
from vllm_conda.jobs import default_jobs, select
from vllm_conda.progress import Mode, Reporter
from vllm_conda.recipe import load_recipe
from vllm_conda.targets import load_targets

VERSION = __version__
ROOT = Path(__file__).resolve().parent.parent
SHARED_SCHEMAS = ROOT.parent / "shared" / "schemas"
SLOW_VARIABLE = "VLLM_CONDA_TEST_SLOW"
SLOW = os.environ.get(SLOW_VARIABLE) == "1"

# Installs one line per input, so that a package's content shows what it was built from.
BUILD_SCRIPT = """
set -euo pipefail
source "${VLLM_CONDA_BUILD_SETTINGS:-/dev/null}"
out=$PREFIX/lib/vllm_kernels
mkdir -p "$out"
if grep -rn 'SYNTAX ERROR' csrc; then
  echo "$SRC_DIR/csrc/cpu/norm/norm.cc:3:1: error: expected unqualified-id before 'SYNTAX'"
  echo "    3 | SYNTAX ERROR"
  echo "      | ^~~~~~"
  exit 1
fi
for ((i = 1; i <= ${SLOW_STEPS:-0}; i++)); do echo "[$i/${SLOW_STEPS}] step"; sleep 0.1; done
if [[ $VLLM_COMPONENT == core ]]; then
  mkdir -p "$SP_DIR/vllm_kernels"
  cp -r src/vllm_kernels/. "$SP_DIR/vllm_kernels/"
  cat csrc/core/* > "$out/libvllm_kernels_core.so"
  cat csrc/torch/* > "$out/libvllm_kernels_ops.so"
elif [[ $VLLM_COMPONENT == cuda ]]; then
  printf '{"schema": 1, "cuda": "%s", "request": "%s", "families": {}, "left_out": {}}\\n' \
    "$VLLM_CUDA_VERSION" "$VLLM_CUDA_ARCHS" > "$out/cuda.json"
  cat csrc/core/* csrc/cuda/*/* > "$out/libvllm_kernels_cuda_norm.so"
elif [[ $VLLM_COMPONENT == flashmla || $VLLM_COMPONENT == deepgemm ]]; then
  [[ $VLLM_COMPONENT == flashmla ]] && family=mla || family=mqa_logits
  printf '{"schema": 1, "cuda": "%s", "request": "%s", "families": {}, "left_out": {}}\\n' \
    "$VLLM_CUDA_VERSION" "$VLLM_CUDA_ARCHS" > "$out/cuda-$VLLM_COMPONENT.json"
  cat csrc/core/* "csrc/cuda/$family"/* > "$out/libvllm_kernels_cuda_$family.so"
elif [[ $VLLM_COMPONENT == rocm ]]; then
  printf '{"schema": 1, "hip": "%s", "targets": ROCM_TARGETS, "families": {}, "archs": "%s"}\\n' \
    "$VLLM_HIP_VERSION" "$VLLM_ROCM_ARCHS" > "$out/rocm.json"
  cat csrc/core/* csrc/cuda/norm/* csrc/rocm/* > "$out/libvllm_kernels_rocm_norm.so"
else
  { echo "level=$VLLM_CPU_LEVEL"; cat csrc/core/* csrc/cpu/*/*; } > "$out/libvllm_kernels_cpu.so"
fi
"""

SOURCES = {
    "CMakeLists.txt": "project\n",
    "LICENSE": "licence\n",
    "licenses/CUTLASS.txt": "licence of CUTLASS\n",
    "licenses/PyTorch.txt": "licence of PyTorch\n",
    "cmake/Options.cmake": "options\n",
    "csrc/core/status.cc": "core\n",
    "csrc/cpu/norm/norm.cc": "norm\n",
    "csrc/torch/CMakeLists.txt": "torch\n",
    "csrc/torch/ops.cc": "ops\n",
    "csrc/torch/ops.def": "schemas\n",
    "csrc/torch/convert.h": "convert\n",
    "csrc/cpu/norm/binding.cc": "binding\n",
    "src/vllm_kernels/__init__.py": "version = 1\n",
}

PYTHON_SCRIPT = (
    "mkdir -p $PREFIX/bin && printf '#!/bin/sh\\n%s\\n' '{body}' > $PREFIX/bin/python "
    "&& chmod +x $PREFIX/bin/python"
)
_PYTHON = PYTHON_SCRIPT.format(body="exit 0")

# name: (version, run requirements, run_exports, script)
DUMMIES: dict[str, tuple[str, list[str], dict[str, list[str]], str]] = {
    "python": ("3.12.1", [], {}, _PYTHON),
    "libtorch": ("2.13.0", [], {"weak": ["libtorch >=2.13,<2.14"]}, ""),
    "pytorch": ("2.13.0", ["python", "libtorch ==2.13.0"], {"weak": ["pytorch >=2.13,<2.14"]}, ""),
    "gxx_linux-64": ("12.2.0", [], {}, ""),
    "sysroot_linux-64": ("2.17", [], {"strong": ["__glibc >=2.17"]}, ""),
    "cmake": ("3.31.0", [], {}, ""),
    "ninja": ("1.12.0", [], {}, ""),
    "ccache": ("4.14", [], {}, ""),
    "onednn": ("3.7.2", [], {"weak": ["onednn >=3.7.2,<4"]}, ""),
    "libhwy": ("1.2.0", [], {"weak": ["libhwy >=1.2.0,<1.3"]}, ""),
    "_openmp_mutex": ("4.5", [], {}, ""),
    "libgomp": ("12.2.0", ["_openmp_mutex"], {"strong": ["_openmp_mutex >=4.5"]}, ""),
}
# What archspec calls the CPUs of each level; enough of them for the tests.
LEVEL_NAMES = {
    1: "x86_64|nocona|core2",
    2: "x86_64_v2|nehalem|westmere",
    3: "x86_64_v3|haswell|zen2",
    4: "x86_64_v4|icelake|sapphirerapids|zen4|cascadelake|skylake_avx512",
}


def dummy_channel(folder: Path) -> str:
    """Build the dummy packages into ``folder``; returns its address."""
    for name, (version, run, exports, script) in DUMMIES.items():
        build_dummy(folder, name, version, {"run": run, "run_exports": exports}, script)
    for level in LEVEL_NAMES:
        names = "|".join(LEVEL_NAMES[n] for n in LEVEL_NAMES if n >= level)
        provider = {"run": [f"__archspec[version='1.*', build='^({names})$']"]}
        build_dummy(folder, "_x86_64-microarch-level", str(level), provider, "")
        exports = {"run_exports": {"strong": [f"_x86_64-microarch-level >={level}"]}}
        build_dummy(folder, "x86_64-microarch-level", str(level), exports, "")
    for left in ("bld", "src_cache", "build_cache"):
        shutil.rmtree(folder / left, ignore_errors=True)
    return folder.as_uri()


def cuda_dummies(folder: Path, versions: Iterable[str], pytorch: bool = True) -> str:
    """Build compiler and run time of CUDA versions into ``folder``; returns its address.

    Args:
        pytorch: Also PyTorch for the CPU and for each version.
    """
    torch = DUMMIES["pytorch"][1]
    for version in versions:
        major = version.split(".")[0]
        own = [f"cuda-version {version}.*"]
        rows: dict[str, tuple[list[str], dict[str, Any]]] = {
            "cuda-version": ([], {"run_constraints": [f"__cuda >={major}"]}),
            "cuda-nvcc_linux-64": (
                own, {"run_exports": {"strong": [f"cuda-version >={version},<{int(major) + 1}"]}},
            ),
            "cuda-cudart": (own, {}),
            "cuda-cudart-dev": (own, {"run_exports": {"weak": [f"cuda-cudart >={version}"]}}),
        }  # fmt: skip
        for name, (run, more) in rows.items():
            build_dummy(folder, name, version, {"run": run, **more}, "")
        if pytorch:
            needs = [*torch, "__cuda", f"cuda-version {major}.*"]
            build_dummy(folder, "pytorch", "2.13.0", {"run": needs}, "", f"cuda{major}0_py312")
    if pytorch:
        build_dummy(folder, "pytorch", "2.13.0", {"run": torch}, "", "cpu_py312")
    build_dummy(folder, "cutlass", "4.2.0", {}, "")
    return folder.as_uri()


def build_dummy(
    folder: Path,
    name: str,
    version: str,
    requirements: dict[str, Any],
    script: str,
    build: str = "external",
) -> None:
    recipe = {
        "package": {"name": name, "version": version},
        "build": {"number": 0, "string": f"{build}_{version.replace('.', '_')}"},
        "requirements": requirements,
    }
    recipe["build"]["script"] = script or "mkdir -p $PREFIX/share && touch $PREFIX/share/" + name
    home = folder / "recipes" / f"{name}-{version}-{build}"
    home.mkdir(parents=True, exist_ok=True)
    stage0 = Stage0Recipe.from_dict(recipe, recipe_dir=home)
    for variant in stage0.render(VariantConfig({})):
        variant.run_build(
            tool_config=ToolConfiguration(test_strategy="skip"), output_dir=folder, channels=[]
        )


def checkout(folder: Path) -> Path:
    """Make the small checkout in ``folder``."""
    folder.mkdir(parents=True)
    shutil.copytree(ROOT / "variants", folder / "variants")
    shutil.copytree(ROOT / "recipe", folder / "recipe")
    rocm = json.dumps(load_targets(ROOT).rocm.archs)
    script = textwrap.dedent(BUILD_SCRIPT).replace("ROCM_TARGETS", rocm)
    (folder / "recipe" / "build.sh").write_text(script)
    for name, text in {**_listed(), **SOURCES}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    shutil.copy(ROOT / "targets.toml", folder)
    engines = Path("src/vllm_kernels_plugin/engines.tsv")
    shutil.copy(ROOT / engines, folder / engines)
    for table in (ROOT / "csrc/cuda").glob("*/family.toml"):
        family = folder / "csrc/cuda" / table.parent.name
        family.mkdir(parents=True, exist_ok=True)
        shutil.copy(table, family)
        (family / "binding.cc").write_text(f"binding of {family.name}\n")
    shutil.copy(ROOT / "audit.toml", folder)
    return folder


def _listed() -> dict[str, str]:
    """A file for each source of the recipe, or in it where it is a folder."""
    data = yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text())
    paths = {
        (ROOT / "recipe" / source["path"]).resolve()
        for output in data["outputs"]
        for source in output.get("source", [])
    }
    files = (path / "listed.txt" if path.is_dir() else path for path in paths)
    return {str(path.relative_to(ROOT)): f"{path.name}\n" for path in files}


def git(root: Path, *words: str, when: int | None = None) -> str:
    """Run git in a checkout as nobody's; returns what it prints.

    Args:
        when: Time of a commit, in seconds since 1970, if not now.
    """
    environment = {
        **os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull,
        **({f"GIT_{who}_DATE": f"{when} +0000" for who in ("AUTHOR", "COMMITTER")} if when else {}),
    }  # fmt: skip
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", "-C", str(root), *identity, *words],
        env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.strip()


def plan(root: Path, names: Sequence[str] = ()) -> Plan:
    """What the recipe of ``root`` renders for the jobs ``names``, or for all."""
    targets = load_targets(root)
    return make_plan(load_recipe(root), targets, select(targets, names))


def build(
    root: Path, channels: Sequence[str], names: Sequence[str] = (), reporter: Reporter | None = None
) -> Report:
    """Build the jobs ``names``, or this machine's, into the checkout's ``output``."""
    targets = load_targets(root)
    jobs = select(targets, names) if names else default_jobs(targets)
    options = Options(root, root / "output", tuple(jobs), tuple(channels), 2)
    return run_build(options, targets, reporter or Reporter(Mode.JSON, io.StringIO()))


def upstream(root: Path, recipe: Path, output: Path) -> Upstream:
    """A build of upstream's sources that takes nothing from anywhere."""
    return Upstream(
        root=root,
        recipe=root / recipe,
        platform="linux-64",
        output=output,
        channels=(),
        workspace=workspace_for(root),
        reporter=Reporter(Mode.JSON, io.StringIO()),
        origin=origin(root, []),
        variant={},
        inputs={},
    )


def module_at(file: Path) -> ModuleType:
    """The module in ``file``, which no import path has."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names(built: Iterable[Built]) -> list[str]:
    """Package names of a report's ``built`` list."""
    return [one.package.rsplit("-", 2)[0] for one in built]


def default_signals() -> None:
    """For a program that is to be stopped: nohup's commands ignore SIGHUP and a shell's background
    jobs SIGINT, and so do the tests and what they start there."""
    for sign in (signal.SIGINT, signal.SIGHUP):
        signal.signal(sign, signal.SIG_DFL)
