"""The packages of a job: the recipe, rendered for its variant."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rattler_build import RattlerBuildError, RenderConfig, RenderedVariant, VariantConfig
from rattler_build.tool_config import PlatformConfig
from yaml import YAMLError

from vllm_conda.errors import ConfigError, RecipeError, did_you_mean, reason
from vllm_conda.jobs import CUDA, ROCM, Job
from vllm_conda.recipe import RECIPE_FILE, Recipe, hash_tree
from vllm_conda.yaml_files import load_yaml, read_yaml

TOOLCHAIN_VARIABLE = "VLLM_CONDA_TOOLCHAIN"
# By device: what the recipe reads the fingerprint of its toolkit from.
TOOLKIT_VARIABLES = {CUDA: "VLLM_CONDA_CUDA_TOOLCHAIN", ROCM: "VLLM_CONDA_ROCM_TOOLCHAIN"}


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
    except YAMLError as error:
        raise ConfigError(f"{file} is not valid YAML: {reason(error)}.") from None
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
            raise RecipeError(
                f"{RECIPE_FILE} does not render for {job.name}: {reason(error)}."
            ) from None


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
