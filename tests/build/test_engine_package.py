"""What the engine's packages say of the machine that built them: nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import support
import yaml
from rattler.package_streaming import extract

from vllm_conda.builder.commit import EPOCH_VARIABLE
from vllm_conda.builder.workspace import workspace_for
from vllm_conda.recipe import ENGINE_RECIPE_FILE

EPOCH = 1700000000


def test_no_folder_and_no_time_of_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CONDA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(EPOCH_VARIABLE, str(EPOCH))
    root = support.checkout(tmp_path / "checkout")
    workspace = workspace_for(root)
    folder = workspace.folder / "engine"
    # A recipe's folder travels in its packages, with the tests of its other packages.
    other = folder / "recipes/engine-1.0-external/tests/check_other.py"
    other.parent.mkdir(parents=True)
    other.write_text("pass\n")
    support.build_dummy(folder, "engine", "1.0", {"run": []}, f"echo {folder} && touch $PREFIX/a")
    (package,) = folder.glob("*/engine-*.conda")
    build = support.upstream(root, ENGINE_RECIPE_FILE, tmp_path / "engine")
    build._repack(package)
    extract(package, tmp_path / "content")
    info = tmp_path / "content/info"
    assert json.loads((info / "index.json").read_text())["timestamp"] == 1000 * EPOCH
    assert {path.name for path in (info / "recipe").iterdir()} <= {
        "recipe.yaml", "rendered_recipe.yaml", "variant_config.yaml", "build.sh",
    }  # fmt: skip
    for file in info.rglob("*"):
        # The recipe's own text is the author's, not the machine's.
        if file.is_file() and file.name not in ("recipe.yaml", "paths.json"):
            assert str(workspace.cache) not in file.read_text(), file


def test_no_folder_of_the_build_is_recorded_by_pip() -> None:
    """pip writes direct_url.json for what it installs from a folder."""
    recipe = yaml.safe_load((support.ROOT / ENGINE_RECIPE_FILE).read_text())
    commands = recipe["outputs"][0]["build"]["script"]["content"]
    installs = [line for line in commands if re.search(r"\bpip install\b", line)]
    assert [re.search(r"pip install (\S+)", line)[1] for line in installs] == ["vllm"]  # type: ignore[index]
    assert all("--no-index" in line for line in installs)
