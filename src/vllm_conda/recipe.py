"""The recipe: its staging builds and the hashes of their sources."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from rattler_build import RattlerBuildError, Stage0Recipe
from yaml import YAMLError

from vllm_conda.engine.interface import table
from vllm_conda.errors import RecipeError, reason
from vllm_conda.targets import TARGETS_FILE, Targets
from vllm_conda.yaml_files import read_yaml

RECIPE_FILE = Path("recipe/recipe.yaml")
ENGINE_RECIPE_FILE = Path("recipe/engine/recipe.yaml")
FLASHINFER_RECIPE_FILE = Path("recipe/flashinfer/recipe.yaml")
_STAGING_SUFFIX = "-build"


@dataclass(frozen=True)
class Staging:
    """A staging build: the local files that it compiles and its script."""

    name: str
    sources: tuple[Path, ...]
    script: Path

    @property
    def hash_key(self) -> str:
        """Variant key that carries the hash of this staging's files."""
        return f"{self.name.removesuffix(_STAGING_SUFFIX)}_source_hash"


@dataclass(frozen=True)
class Recipe:
    """A parsed recipe.

    Attributes:
        source_hashes: By variant key: hash of what each staging build compiles.
        test_hashes: By package: hash of the sources of its own, which its tests alone use. They
            are part of its fingerprint.
        made_of: By package: files and folders that decide what it holds.
    """

    path: Path
    stagings: tuple[Staging, ...]
    source_hashes: Mapping[str, str]
    test_hashes: Mapping[str, str]
    made_of: Mapping[str, tuple[Path, ...]]
    stage0: Stage0Recipe = field(repr=False, compare=False)
    data: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def root(self) -> Path:
        """The checkout."""
        return self.path.parents[len(RECIPE_FILE.parts) - 1]


def load_recipe(root: Path) -> Recipe:
    """Parse ``recipe/recipe.yaml`` and hash the files of its staging builds.

    Raises:
        RecipeError: The file is missing or malformed, or names a source that is not there.
    """
    path = root / RECIPE_FILE
    try:
        data = read_yaml(path)
        stage0 = Stage0Recipe.from_file(path)
    except FileNotFoundError:
        raise RecipeError(f"{RECIPE_FILE} does not exist in {root}.") from None
    except YAMLError as error:
        raise RecipeError(f"{RECIPE_FILE} is not valid YAML: {reason(error)}.") from None
    except RattlerBuildError as error:
        raise RecipeError(f"{RECIPE_FILE}: {reason(error)}.") from None
    if not isinstance(data, dict) or not isinstance(data.get("outputs"), list):
        raise RecipeError(f"{RECIPE_FILE} has no outputs.")
    try:
        stagings = tuple(_stagings(path.parent, data))
        tests = {
            output["package"]["name"]: hash_files(root, _sources(path.parent, output))
            for output in data["outputs"]
            if "package" in output and "source" in output
        }
        made_of = dict(_made_of(path, data, stagings))
        hashes = {s.hash_key: hash_files(root, (*s.sources, s.script.resolve())) for s in stagings}
    except PermissionError:
        raise
    except OSError as error:  # a name that is too long, a loop of links
        raise RecipeError(
            f"{RECIPE_FILE}: cannot read the source {error.filename}: {error.strerror}."
        ) from None
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        # rattler-build accepts it, in a form that this toolkit's recipe does not use.
        raise RecipeError(
            f"{RECIPE_FILE}: an output has no source path or script file where it is wanted "
            f"({type(error).__name__}: {reason(error)})."
        ) from None
    return Recipe(path, stagings, hashes, tests, made_of, stage0, data)


def _stagings(folder: Path, data: Mapping[str, Any]) -> Iterator[Staging]:
    for output in data["outputs"]:
        if "staging" not in output:
            continue
        name = output["staging"]["name"]
        script = folder / output["build"]["script"]["file"]
        yield Staging(name, tuple(_sources(folder, output)), script)


def _made_of(
    path: Path, data: Mapping[str, Any], stagings: Iterable[Staging]
) -> Iterator[tuple[str, tuple[Path, ...]]]:
    built = {staging.name: (*staging.sources, staging.script) for staging in stagings}
    for output in data["outputs"]:
        if "package" in output:
            own = _sources(path.parent, output)
            common = (path, path.parent / "tests")
            yield output["package"]["name"], (*common, *built.get(output.get("inherit"), ()), *own)


def _sources(folder: Path, output: Mapping[str, Any]) -> Iterator[Path]:
    """Files and folders that an output names as its sources."""
    for source in output.get("source", []):
        file = (folder / source["path"]).resolve()
        if not file.exists():
            kind = "staging" if "staging" in output else "package"
            raise RecipeError(
                f"{RECIPE_FILE}: {kind} {output[kind]['name']!r} names the source "
                f"{source['path']}, which does not exist."
            )
        yield from _filtered(file, source.get("filter", {}))


def _filtered(folder: Path, globs: Mapping[str, Any]) -> Iterator[Path]:
    """The parts of a source that rattler-build copies: all but the subfolders that it excludes."""
    excluded = globs.get("exclude", [])
    if not excluded:
        yield folder
        return
    left_out = {glob.removesuffix("/**") for glob in excluded}
    if set(globs) != {"exclude"} or not all(glob.endswith("/**") for glob in excluded):
        raise ValueError(f"filter {dict(globs)} is not one of whole subfolders")
    if missing := sorted(name for name in left_out if not (folder / name).is_dir()):
        raise ValueError(f"filter excludes {missing[0]}, which {folder.name} does not have")
    yield from sorted(child for child in folder.iterdir() if child.name not in left_out)


def hash_files(root: Path, sources: Iterable[Path]) -> str:
    """Hash path, mode and content of every file of ``sources`` and below."""
    digest = hashlib.sha256()
    for source in sources:
        for file in _walk(source):
            name = os.path.relpath(file, root.resolve())
            mode = "x" if os.access(file, os.X_OK) else "-"
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{name}\0{mode}\0{content}\n".encode())
    return digest.hexdigest()[:16]


def hash_tree(folder: Path) -> str:
    """Hash names and contents of all files below ``folder``."""
    digest = hashlib.sha256()
    for file in _walk(folder):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(folder)}\0{content}\n".encode())
    return digest.hexdigest()


def _walk(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(f for f in folders if f != "__pycache__")
        for file in sorted(files):
            if not file.endswith(".pyc"):
                yield Path(folder) / file


def check_context(root: Path, targets: Targets) -> None:
    """Compare what the recipes say of versions with the table.

    A feedstock holds the recipes alone, so they say it themselves.

    Raises:
        RecipeError: Names file and key of the first difference.
    """
    engines = table.load(root)
    release = targets.engine.release
    if release not in engines.releases:
        raise RecipeError(
            f"{TARGETS_FILE}: [engine]: release {release} is not in {table.FILE}, which has "
            f"{', '.join(engines.versions)}.",
            f"Run `vllm-conda engine add {release}`.",
        )
    wanted = {
        RECIPE_FILE: {
            "version": targets.project.version,
            "engine_range": engines.range(),
            "python_min": targets.project.python_min,
            "torch_min": targets.project.torch_target,
        },
        ENGINE_RECIPE_FILE: {"version": release, "sha256": engines.sdist_sha256(release)},
    }
    _check_flashinfer(root, targets)
    for file, facts in wanted.items():
        found = _context(root, file)
        for key, value in facts.items():
            if found.get(key) != value:
                raise RecipeError(
                    f"{file}: {key} is {found.get(key)}, {TARGETS_FILE} has {value}.",
                    "Make them agree.",
                )


def _context(root: Path, file: Path) -> dict[str, Any]:
    """A recipe's context, and what its outputs say of their one source."""
    try:
        data = read_yaml(root / file)
        found = dict(data["context"])
        for part in data.get("outputs", []):
            source = part.get("source", [])
            found |= source if isinstance(source, dict) else {}
    except (OSError, YAMLError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(f"{file} has no context: {reason(error)}.") from None
    return found


def _check_flashinfer(root: Path, targets: Targets) -> None:
    """FlashInfer's recipe says itself what it builds where no toolkit does, as in a feedstock."""
    table = targets.flashinfer
    release = table.releases[table.release]
    if not SpecifierSet(release.engines).contains(targets.engine.release):
        raise RecipeError(
            f"{TARGETS_FILE}: [flashinfer]: release {table.release} is for vLLM "
            f"{release.engines}, [engine] has {targets.engine.release}."
        )
    context = _context(root, FLASHINFER_RECIPE_FILE)
    facts = {"version": table.release, "sha256": release.sha256, "engines": release.engines}
    for key, value in facts.items():
        if f'default="{value}"' not in str(context.get(key)):
            raise RecipeError(
                f"{FLASHINFER_RECIPE_FILE}: the default of {key} is not {value}, which "
                f"{TARGETS_FILE} has.",
                "Make them agree.",
            )
