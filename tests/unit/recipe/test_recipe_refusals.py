"""A recipe, a variant file or versions that are wrong are refused in a sentence."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import support
from rendered import JOBS, TARGETS, outputs, recipe_data
from support import ROOT

from vllm_conda.engine.interface import table
from vllm_conda.errors import ConfigError, RecipeError
from vllm_conda.generate.variants import variant_file
from vllm_conda.jobs import Job
from vllm_conda.recipe import (
    ENGINE_RECIPE_FILE,
    RECIPE_FILE,
    check_context,
    load_recipe,
)
from vllm_conda.render import variant_values


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("outputs: [", "not valid YAML"),
        ("schema_version: 1\n", "recipe.yaml"),
        ("recipe: {name: x}\noutputs:\n  - pakage: {name: y}\n", "recipe.yaml"),
    ],
)
def test_malformed_recipe(tmp_path: Path, text: str, part: str) -> None:
    root = support.checkout(tmp_path / "checkout")
    (root / "recipe" / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError, match=part):
        load_recipe(root)


def test_recipe_that_does_not_render(tmp_path: Path) -> None:
    root = support.checkout(tmp_path / "checkout")
    path = root / "recipe" / "recipe.yaml"
    path.write_text(path.read_text().replace('compiler("cxx")', 'compilr("cxx")'))
    with pytest.raises(RecipeError, match=r"does not render for linux-64-cpu.*compilr"):
        outputs(root)


def test_missing_source(tmp_path: Path) -> None:
    root = support.checkout(tmp_path / "checkout")
    (root / "LICENSE").unlink()
    with pytest.raises(RecipeError, match=r"'core-build' names the source \.\./LICENSE"):
        load_recipe(root)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("microarch_levle: ['3']\n", ["unknown key 'microarch_levle'", "'microarch_level'?"]),
        ("microarch_level: 3\n", ["microarch_level must be a list of one string, got 3"]),
        ("microarch_level: ['3']\n", ["target_platform is missing"]),
        ("- a\n", ["holds no mapping"]),
        ("a: [\n", ["not valid YAML"]),
    ],
)
def test_malformed_variant_file(tmp_path: Path, text: str, parts: list[str]) -> None:
    job: Job = JOBS[0]
    (tmp_path / "variants").mkdir()
    (tmp_path / job.variant_file).write_text(text)
    with pytest.raises(ConfigError, match=job.name) as caught:
        variant_values(tmp_path, job, variant_file(TARGETS, job))
    for part in parts:
        assert part in str(caught.value)


def test_versions_are_those_of_the_table(tmp_path: Path) -> None:
    check_context(ROOT, TARGETS)
    shutil.copytree(ROOT / "recipe", tmp_path / "recipe")
    shutil.copytree(ROOT / table.FILE.parent, tmp_path / table.FILE.parent)
    file = tmp_path / ENGINE_RECIPE_FILE
    file.write_text(file.read_text().replace(TARGETS.engine.release, "0.1.2"))
    with pytest.raises(RecipeError) as caught:
        check_context(tmp_path, TARGETS)
    assert str(caught.value).startswith(
        f"{ENGINE_RECIPE_FILE}: version is 0.1.2, targets.toml has {TARGETS.engine.release}."
    )


def test_the_range_of_engines_is_the_tables(tmp_path: Path) -> None:
    for file in (Path("recipe"), table.FILE.parent):
        shutil.copytree(ROOT / file, tmp_path / file)
    recipe = tmp_path / RECIPE_FILE
    wanted = table.load(ROOT).range()
    recipe.write_text(recipe.read_text().replace(wanted, ">=0.1,<0.2"))
    with pytest.raises(RecipeError, match=rf"engine_range is >=0.1,<0.2, .* has {wanted}"):
        check_context(tmp_path, TARGETS)
    (core,) = (
        one for one in recipe_data()["outputs"] if one.get("package") == {"name": "vllm-core"}
    )
    assert "vllm-engine ${{ engine_range }}" in core["requirements"]["run_constraints"]


def test_the_packaged_engine_is_in_the_table(tmp_path: Path) -> None:
    shutil.copytree(ROOT / table.FILE.parent, tmp_path / table.FILE.parent)
    engine = dataclasses.replace(TARGETS.engine, release="0.1.2")
    with pytest.raises(RecipeError, match=r"release 0.1.2 is not in .*engines.tsv"):
        check_context(tmp_path, dataclasses.replace(TARGETS, engine=engine))
