"""What an edit compiles, tests or names again."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import support
from rendered import JOBS, TARGETS, outputs, staging_key
from support import ROOT

from vllm_conda.errors import RecipeError
from vllm_conda.jobs import select
from vllm_conda.recipe import load_recipe
from vllm_cuda_plan.__main__ import load_table
from vllm_cuda_plan.plan import package_of
from vllm_cuda_plan.table import GENERAL


@pytest.mark.parametrize(
    ("file", "core", "cpu"),
    [
        ("csrc/cpu/norm/norm.cc", False, True),
        ("csrc/cpu/norm/binding.cc", False, True),
        ("csrc/torch/convert.h", True, True),
        ("csrc/torch/ops.cc", True, True),
        ("src/vllm_kernels/__init__.py", True, False),
        ("csrc/core/status.cc", True, True),
        ("CMakeLists.txt", True, True),
        ("recipe/build.sh", True, True),
        ("cmake/Options.cmake", True, True),
        ("src/vllm_cuda_plan/listed.txt", False, False),
    ],
)
def test_a_source_file_changes_exactly_the_builds_that_use_it(
    tmp_path: Path, file: str, core: bool, cpu: bool
) -> None:
    root = support.checkout(tmp_path / "checkout")
    before = outputs(root)
    path = root / file
    path.write_text(path.read_text() + "\n# changed\n")
    after = outputs(root)
    for job in JOBS:
        keys = {
            name: staging_key(before[job.name, name]) != staging_key(after[job.name, name])
            for name in ("vllm-core", "vllm-kernels-cpu")
        }
        assert keys == {"vllm-core": core, "vllm-kernels-cpu": cpu}
        changed = {
            name
            for name in ("vllm-core", "vllm-kernels-cpu", "vllm-kernels")
            if before[job.name, name].file_name != after[job.name, name].file_name
        }
        # vllm-kernels-cpu pins vllm-core exactly, so its package follows a new core.
        expected = (
            {"vllm-core", "vllm-kernels-cpu"} if core else {"vllm-kernels-cpu"} if cpu else set()
        )
        assert changed == expected


def test_a_name_stands_for_one_content() -> None:
    """A toolchain, a dependency or a test in the package: what is built again has a new name."""
    old, new = outputs(ROOT, "one"), outputs(ROOT, "two")
    for key, output in old.items():
        assert output.file_name != new[key].file_name
        assert output.fingerprint != new[key].fingerprint
        if output.staging:
            assert staging_key(output) != staging_key(new[key])


def test_recipe_edits_touch_only_what_they_change(tmp_path: Path) -> None:
    root = support.checkout(tmp_path / "checkout")
    before = outputs(root)
    path = root / "recipe" / "recipe.yaml"
    path.write_text(path.read_text().replace("        - libgomp\n", "        - libgomp >=7\n"))
    after = outputs(root)
    changed = {key[1] for key in before if before[key].fingerprint != after[key].fingerprint}
    assert changed == {"vllm-kernels-cpu"}


def test_package_tests_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    root = support.checkout(tmp_path / "checkout")
    before = outputs(root)
    (root / "recipe" / "tests" / "check_cpu.py").write_text("raise SystemExit(1)\n")
    after = outputs(root)
    key = (JOBS[0].name, "vllm-kernels-cpu")
    assert before[key].file_name == after[key].file_name
    assert before[key].fingerprint != after[key].fingerprint


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real checkout, to edit."""
    root = tmp_path_factory.mktemp("copy")
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout.split("\0")
    for name in names:
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    return root


@pytest.mark.parametrize(
    ("file", "tested_again"),
    [
        ("src/vllm_conda/errors.py", set()),
        ("tests/kernels/cuda/test_norm.py", {"vllm-kernels-cuda"}),
        ("tests/kernels/conftest.py", {"vllm-kernels-cuda", "vllm-deepgemm", "vllm-flashmla"}),
        ("tests/kernels/cuda/test_mla.py", {"vllm-kernels-cuda", "vllm-flashmla"}),
        ("tests/kernels/cuda/test_mqa_logits.py", {"vllm-kernels-cuda", "vllm-deepgemm"}),
        ("tests/kernels/cpu/test_norm.py", set()),
        ("pyproject.toml", set()),
        ("targets.toml", set()),
    ],
)
def test_an_edit_of_the_toolkit_or_of_a_test_compiles_nothing(
    copy: Path, file: str, tested_again: set[str]
) -> None:
    jobs = select(TARGETS, ("linux-64-cpu-x86-64-v3", "linux-64-cuda-13.0-all"))
    before = outputs(copy, jobs=jobs)
    text = (copy / file).read_text()
    try:
        (copy / file).write_text(f"{text}\n# changed\n")
        after = outputs(copy, jobs=jobs)
    finally:
        (copy / file).write_text(text)
    for key, output in before.items():
        assert output.file_name == after[key].file_name
        assert staging_key(output) == staging_key(after[key])
    changed = {key[1] for key in before if before[key].fingerprint != after[key].fingerprint}
    assert changed == tested_again


# One of the general package, and every family that has a package of its own.
EDITED = [
    "norm",
    *(name for name, one in load_table().families.items() if one.component != GENERAL),
]


@pytest.mark.parametrize("family", EDITED)
def test_an_edit_of_a_family_compiles_its_package_alone(copy: Path, family: str) -> None:
    jobs = select(TARGETS, ("linux-64-cuda-13.0-all",))
    before = outputs(copy, jobs=jobs)
    file = copy / "csrc" / "cuda" / family / "binding.cc"
    text = file.read_text()
    try:
        file.write_text(f"{text}\n// changed\n")
        after = outputs(copy, jobs=jobs)
    finally:
        file.write_text(text)
    changed = {key[1] for key in before if staging_key(before[key]) != staging_key(after[key])}
    assert changed == {package_of(load_table().families[family].component)}


def test_a_filter_that_is_no_subfolder_is_refused(copy: Path) -> None:
    path = copy / "recipe" / "recipe.yaml"
    text = path.read_text()
    for wrong in ("mla/*.cu", "nothing/**"):
        path.write_text(text.replace("- mla/**", f"- {wrong}"))
        try:
            with pytest.raises(RecipeError, match="filter"):
                load_recipe(copy)
        finally:
            path.write_text(text)
