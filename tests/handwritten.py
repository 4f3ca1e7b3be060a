"""The project's files that a person writes, for tests that count where a fact stands."""

from __future__ import annotations

import re
import subprocess

from support import ROOT

from vllm_conda.feedstock.rerender import files as feedstock_files
from vllm_conda.generate import generated_files
from vllm_conda.recipe import load_recipe
from vllm_conda.targets import load_targets


def files_with(pattern: re.Pattern[str], aside: re.Pattern[str]) -> set[str]:
    """Files with a match of ``pattern``, less generated ones and those whose path is ``aside``."""
    targets = load_targets(ROOT)
    made = {str(path) for path, _ in generated_files(targets)}
    made |= {str(path) for path in feedstock_files(targets, load_recipe(ROOT))}
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    return {
        name
        for name in tracked
        if name not in made
        and not aside.match(name)
        and (ROOT / name).is_file()
        and pattern.search((ROOT / name).read_text(errors="replace"))
    }
