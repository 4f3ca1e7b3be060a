#!/usr/bin/env python3
"""Run a small Llama on every engine of the table, with the kernels of a build tree.

    VLLM_KERNELS_LIBRARY_DIR=build/cpu/lib python scripts/test_engines.py [VERSION ...]

Each release (all of src/vllm_kernels_plugin/engines.tsv, or those named) is fetched by name through
pip, checked against the table's hash, built as pure Python and put before the import path of a
process that compares its tokens with transformers'. The interpreter's environment brings the rest:
PyTorch and what upstream's requirements/common.txt lists, besides setuptools, setuptools-rust,
setuptools-scm and wheel. Results: build/engines/results.json. Minutes a release, so not a part of
`./run test`. Exit code: 0 when every release is right.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from vllm_conda.engine.interface import table  # noqa: E402

FOLDER = ROOT / "build" / "engines"
TRIAL = ROOT / "src/vllm_conda/engine/inside/trial.py"
PLUGIN = "[vllm.platform_plugins]\nvllm_kernels = vllm_kernels_plugin:platform\n"


def pip(*words: str, version: str) -> None:
    """Run pip as upstream's setup.py needs it for a package without native code."""
    environment = {**os.environ, "VLLM_TARGET_DEVICE": "empty", "VLLM_VERSION_OVERRIDE": version}
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    subprocess.run([*command, *words], env=environment, check=True, stdout=subprocess.DEVNULL)


def unpacked(version: str, wanted: str) -> Path:
    """The release's Python files; RuntimeError where the registry serves another file."""
    folder = FOLDER / version
    if folder.is_dir():
        return folder
    no_build = ("--no-deps", "--no-build-isolation")
    with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
        fetched = ("--no-binary", "vllm", "--dest", scratch, f"vllm=={version}")
        pip("download", *no_build, *fetched, version=version)
        (sdist,) = Path(scratch).glob("vllm-*.tar.gz")
        if sha256(sdist.read_bytes()).hexdigest() != wanted:
            raise RuntimeError(f"{sdist.name} is not the file that {table.FILE} pins")
        pip("wheel", *no_build, "--wheel-dir", scratch, str(sdist), version=version)
        (wheel,) = Path(scratch).glob("vllm-*.whl")
        half = Path(scratch) / "files"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(half)
        half.rename(folder)
    return folder


def plugin() -> Path:
    """Metadata by which the engine finds the checkout's plugin."""
    info = FOLDER / "plugin" / "vllm_kernels-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-kernels\nVersion: 0\n")
    (info / "entry_points.txt").write_text(PLUGIN)
    return info.parent


def run(version: str, folder: Path, runs: list[str]) -> list[dict[str, Any]]:
    """What the engine's program found; a row that says so where it failed."""
    result, log = FOLDER / f"{version}.json", FOLDER / f"{version}.log"
    result.unlink(missing_ok=True)
    path = os.pathsep.join(map(str, (folder, ROOT / "src", plugin())))
    # Each engine caches what it compiles; nothing of another version is to be found there.
    settings = {"PYTHONPATH": path, "VLLM_CACHE_ROOT": str(FOLDER / "cache" / version)}
    words = ["--models", str(FOLDER / "models"), "--result", str(result), "--inline"]
    for one in runs:
        words += ["--run", f"llama:{one}"]
    with log.open("w") as stream:
        subprocess.run(
            [sys.executable, str(TRIAL), *words],
            env={**os.environ, **settings},
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        )
    found = json.loads(result.read_text()) if result.is_file() else []
    if len(found) < len(runs):
        lines = log.read_text(errors="replace").strip().splitlines()
        found.append({"right": False, "failure": lines[-1] if lines else "no output"})
    return [{"engine": version, **row} for row in found]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Run a small Llama on engines of the table.")
    engines = table.load(ROOT)
    parser.add_argument("versions", nargs="*", metavar="VERSION", help=", ".join(engines.versions))
    parser.add_argument(
        "--run", action="append", metavar="DTYPE:MODE", help="default: float32:eager"
    )
    chosen = parser.parse_args(arguments)
    for version in chosen.versions:
        if version not in engines.releases:
            parser.error(f"{version} is not in {table.FILE}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for version in chosen.versions or engines.versions:
        try:
            folder = unpacked(version, engines.sdist_sha256(version))
            found = run(version, folder, chosen.run or ["float32:eager"])
        except (subprocess.CalledProcessError, RuntimeError) as error:
            found = [{"engine": version, "right": False, "failure": str(error)}]
        for row in found:
            tokens = (
                f"{row['chosen']}/{row['tokens']} tokens" if "tokens" in row else row["failure"]
            )
            print(f"{version:10}{'right' if row['right'] else 'WRONG':7}{tokens}", flush=True)
        rows += found
        (FOLDER / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if all(row["right"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
