"""The recipe: its staging builds, their source hashes, and rendering."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rattler_build import (
    RattlerBuildError,
    RenderConfig,
    RenderedVariant,
    Stage0Recipe,
    VariantConfig,
)
from rattler_build.tool_config import PlatformConfig

from vllm_conda.engine.interface import table
from vllm_conda.errors import ConfigError, RecipeError, did_you_mean
from vllm_conda.jobs import CUDA, ROCM, Job
from vllm_conda.targets import TARGETS_FILE, Targets

RECIPE_FILE = Path("recipe/recipe.yaml")
ENGINE_RECIPE_FILE = Path("recipe/engine/recipe.yaml")
TOOLCHAIN_VARIABLE = "VLLM_CONDA_TOOLCHAIN"
# By device: what the recipe reads the fingerprint of its toolkit from.
TOOLKIT_VARIABLES = {CUDA: "VLLM_CONDA_CUDA_TOOLCHAIN", ROCM: "VLLM_CONDA_ROCM_TOOLCHAIN"}
_STAGING_SUFFIX = "-build"


# Parsing in Python is a third of the time that all jobs take to render.
_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_yaml(text: str) -> Any:
    """Parse YAML, by libyaml where PyYAML was built with it.

    Raises:
        yaml.YAMLError: The text is malformed.
    """
    try:
        return yaml.load(text, Loader=_YAML_LOADER)  # noqa: S506 - both are safe loaders
    except RecursionError:
        raise yaml.YAMLError("it is nested too deep") from None
    except (ValueError, OverflowError) as error:  # such as a date or a number that is none
        raise yaml.YAMLError(str(error)) from None


def read_yaml(path: Path) -> Any:
    """Parse a YAML file.

    Raises:
        yaml.YAMLError: It is malformed or not UTF-8.
    """
    try:
        return load_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise yaml.YAMLError(f"it is not UTF-8: {error.reason} at byte {error.start}") from None


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
class Output:
    """One package of one job, rendered but not built."""

    job: Job
    name: str
    version: str
    build_string: str
    build_number: int
    variant: Mapping[str, str]
    run: tuple[str, ...]
    constraints: tuple[str, ...]
    staging: str | None
    fingerprint: str
    package_hashes: Mapping[str, list[str]]
    rendered: RenderedVariant = field(repr=False, compare=False)

    @property
    def file_name(self) -> str:
        return f"{self.name}-{self.version}-{self.build_string}.conda"


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
    except yaml.YAMLError as error:
        raise RecipeError(f"{RECIPE_FILE} is not valid YAML: {_one_line(error)}.") from None
    except RattlerBuildError as error:
        raise RecipeError(f"{RECIPE_FILE}: {_one_line(error)}.") from None
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
            f"({type(error).__name__}: {_one_line(error)})."
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
    """Compare what both recipes say of versions with the table.

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
    for file, facts in wanted.items():
        try:
            data = read_yaml(root / file)
            found = dict(data["context"])
            for part in data.get("outputs", []):
                source = part.get("source", [])
                found |= source if isinstance(source, dict) else {}
        except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise RecipeError(f"{file} has no context: {_one_line(error)}.") from None
        for key, value in facts.items():
            if found.get(key) != value:
                raise RecipeError(
                    f"{file}: {key} is {found.get(key)}, {TARGETS_FILE} has {value}.",
                    "Make them agree.",
                )


def variant_values(root: Path, job: Job, expected: str) -> dict[str, list[str]]:
    """Read a job's variant file.

    Args:
        expected: The text that the generator writes; its keys are the known ones.

    Raises:
        ConfigError: The file is missing, malformed, or has an unknown or missing key.
    """
    file = job.variant_file
    try:
        data = read_yaml(root / file)
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist.", "Run `vllm-conda generate`.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not valid YAML: {_one_line(error)}.") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{file} holds no mapping.", "Run `vllm-conda generate`.")
    known = load_yaml(expected)
    for key, values in data.items():
        if key not in known:
            raise ConfigError(
                f"{file}: unknown key {key!r}.{did_you_mean(str(key), known)}",
                "Run `vllm-conda generate`.",
            )
        if not isinstance(values, list) or len(values) != 1 or not isinstance(values[0], str):
            raise ConfigError(f"{file}: {key} must be a list of one string, got {values!r}.")
    missing = [key for key in known if key not in data]
    if missing:
        raise ConfigError(f"{file}: {missing[0]} is missing.", "Run `vllm-conda generate`.")
    return data


def render(
    recipe: Recipe,
    job: Job,
    variant: Mapping[str, list[str]],
    overrides: Mapping[str, str] | None = None,
    toolchain: str = "",
    toolkit: str = "",
    written: Mapping[str, str] | None = None,
) -> list[Output]:
    """Render every output of one job.

    Args:
        variant: The keys of the job's variant file.
        overrides: Keys that replace those of the variant file, such as the C library's
            version of the embedded toolchain channel.
        toolchain: Fingerprint of the toolchain; part of each staging key and output
            fingerprint, and with it of the name. Without one nothing can be built, and the names
            are those of a feedstock.
        toolkit: The same of the job's CUDA toolkit or clang, for what is compiled with it.
        written: By package: what is written into it after the build. Part of its name too.

    Raises:
        RecipeError: The recipe does not render.
    """
    keys = {key: values for key, values in variant.items() if key != "target_platform"}
    keys |= {key: [value] for key, value in (overrides or {}).items()}
    keys |= {key: [value] for key, value in recipe.source_hashes.items()}
    config = RenderConfig(platform=PlatformConfig(target_platform=job.platform))
    with environment({TOOLCHAIN_VARIABLE: toolchain, **toolkit_variables(job, toolkit)}):
        common = f"{hash_tree(recipe.path.parent / 'tests')} {toolchain}"

        def outputs(hashes: Mapping[str, list[str]]) -> list[Output]:
            rendered = recipe.stage0.render(VariantConfig({**keys, **hashes}), config)
            return [_output(recipe, job, item, common, hashes, written or {}) for item in rendered]

        try:
            found = outputs({})
            # Twice, because a name holds the hash of what it stands for.
            return outputs(_package_hashes(found)) if toolchain else found
        except RattlerBuildError as error:
            message = _one_line(error)
            raise RecipeError(f"{RECIPE_FILE} does not render for {job.name}: {message}.") from None


def toolkit_variables(job: Job, fingerprint: str) -> dict[str, str]:
    """The fingerprint of the job's toolkit where the recipe reads it; empty for other devices."""
    return {
        variable: fingerprint if device == job.device else ""
        for device, variable in TOOLKIT_VARIABLES.items()
    }


def _package_hashes(outputs: Iterable[Output]) -> dict[str, list[str]]:
    return {
        f"{output.name.replace('-', '_')}_package_hash": [output.fingerprint[:16]]
        for output in outputs
    }


def _output(
    recipe: Recipe,
    job: Job,
    rendered: RenderedVariant,
    common: str,
    package_hashes: Mapping[str, list[str]],
    written: Mapping[str, str],
) -> Output:
    stage1 = rendered.recipe
    data = stage1.to_dict()
    caches = [cache.name for cache in stage1.staging_caches]
    hashes = [recipe.source_hashes[s.hash_key] for s in recipe.stagings if s.name in caches]
    hashes += filter(None, [recipe.test_hashes.get(stage1.package.name)])
    facts = [data, rendered.variant, hashes, common, written.get(stage1.package.name)]
    content = json.dumps(facts, sort_keys=True, default=str)
    return Output(
        job=job,
        name=stage1.package.name,
        version=stage1.package.version,
        build_string=str(stage1.build.string),
        build_number=stage1.build.number,
        variant=rendered.variant,
        run=tuple(_spec(item, rendered) for item in stage1.requirements.run),
        constraints=tuple(map(str, stage1.requirements.to_dict().get("run_constraints", ()))),
        staging=caches[0] if caches else None,
        fingerprint=hashlib.sha256(content.encode()).hexdigest(),
        package_hashes=package_hashes,
        rendered=rendered,
    )


def _spec(item: Any, rendered: RenderedVariant) -> str:
    if isinstance(item, dict) and "pin_subpackage" in item:
        name = item["pin_subpackage"]["name"]
        pin = rendered.pin_subpackages.get(name)
        return f"{name} =={pin.version} {pin.build_string}" if pin else str(name)
    return str(item)


def hash_tree(folder: Path) -> str:
    """Hash names and contents of all files below ``folder``."""
    digest = hashlib.sha256()
    for file in _walk(folder):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(folder)}\0{content}\n".encode())
    return digest.hexdigest()


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables; an empty value unsets.

    For rattler-build alone: its Jinja (``env.get``) reads those of the process.
    """
    before = {key: os.environ.get(key) for key in values}
    _set({key: value or None for key, value in values.items()})
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for key, value in values.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")
