"""The lint of the rendered whole: content with the recipe, and each planted fault is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import support
from support import ROOT, VERSION

from vllm_conda.cli import main
from vllm_conda.errors import RecipeError
from vllm_conda.lint import RULES, check, violations
from vllm_conda.targets import load_targets

TARGETS = load_targets(ROOT)


def broken(root: Path) -> list[str]:
    """The violations of a checkout, as text."""
    outputs = support.plan(root).outputs
    return [str(item) for item in violations(TARGETS, outputs)]


def test_the_recipe_breaks_no_rule() -> None:
    outputs = support.plan(ROOT).outputs
    check(TARGETS, outputs)
    assert {output.job.device for output in outputs} == {"cpu", "cuda", "rocm"}
    assert len({output.job.platform for output in outputs}) == len(TARGETS.platforms)


CORE_KEYS = """        use_keys:
          - core_source_hash
          - vllm_core_package_hash
        ignore_keys:
          - cuda_compiler_version
          - microarch_level
"""
CPU_KEYS = """        use_keys:
          - microarch_level
          - cpu_source_hash
          - vllm_kernels_cpu_package_hash
"""
LEVEL_RANK = '100 * (microarch_level | default("0") | int)'
CUDA_SLICE = '(100000 if (cuda_slice | default("all")) == "all" else 0)'
CUDA_VERSION = 'cuda_compiler_version | default("None") | replace("None", "0")'
CUDA_RANK = f'100 * ({CUDA_VERSION} | replace(".", "") | int)'
CUDA_NUMBER = f"{CUDA_SLICE} + {CUDA_RANK}"
MAJOR = 'cuda_compiler_version | default("None") | split(".") | first'
DRIVER_BOUND = f'__cuda ${{{{ cuda_driver_bound | default(">=" ~ ({MAJOR})) }}}}'


@pytest.mark.parametrize(
    ("old", "new", "rule", "parts"),
    [
        (
            '          VLLM_CPU_LEVEL: ${{ microarch_level | default("0") }}\n',
            "",
            "staging key",
            ["vllm-kernels-cpu", "microarch_level", "'cpu-build'", "one binary"],
        ),
        (
            '          VLLM_CUDA_ARCHS: ${{ cuda_slice | default("all") }}\n',
            "          VLLM_CUDA_ARCHS: all\n",
            "staging key",
            ["vllm-kernels-cuda", "cuda_slice", "sm90", "'cuda-build'"],
        ),
        (
            '          VLLM_CUDA_VERSION: ${{ cuda_compiler_version | default("None") }}\n',
            "",
            "staging key",
            ["vllm-kernels-cuda", "cuda_compiler_version", "'13.0'"],
        ),
        (
            '          VLLM_SOURCE_HASH: ${{ cuda_source_hash | default("release") }}\n',
            "",
            "staging key",
            ["vllm-kernels-cuda", "cuda_source_hash", "an edited source would not be built"],
        ),
        (
            CORE_KEYS,
            CORE_KEYS.replace("use_keys:\n", "use_keys:\n          - microarch_level\n").replace(
                "ignore_keys:\n          - cuda_compiler_version\n          - microarch_level\n",
                "ignore_keys:\n          - cuda_compiler_version\n",
            ),
            "hash",
            ["vllm-core", "same content", "depends on microarch_level"],
        ),
        (
            CORE_KEYS,
            CORE_KEYS.replace("          - cuda_compiler_version\n", ""),
            "pin",
            ["vllm-core of linux-64 is pinned to different builds", "cannot be installed together"],
        ),
        (
            '        - ${{ pin_subpackage("vllm-core", exact=True) }}\n        - libtorch',
            f"        - vllm-core =={VERSION} h0000000_0\n        - libtorch",
            "pin",
            [
                "vllm-kernels-cpu",
                f"vllm-core =={VERSION} h0000000_0",
                "but that job makes vllm-core-",
            ],
        ),
        (
            f"      number: ${{{{ {LEVEL_RANK} + revision }}}}\n",
            f"      number: ${{{{ 2000 - {LEVEL_RANK} + revision }}}}\n",
            "build number",
            ["vllm-kernels-cpu of linux-64-cpu-x86-64-v4", "must be higher"],
        ),
        (
            f"      number: ${{{{ {CUDA_NUMBER} + revision }}}}\n",
            f"      number: ${{{{ {CUDA_NUMBER} - 12400 + revision }}}}\n",
            "build number",
            ["vllm-kernels-cuda of linux-64-cuda", "not above vllm-kernels-cpu's 400"],
        ),
        (
            f"      number: ${{{{ {CUDA_NUMBER} + revision }}}}\n",
            "      number: ${{ 1000 + revision }}\n",
            "build number",
            ["vllm-kernels-cuda of linux-64-cuda-13.0-all", "must be higher"],
        ),
        (
            f"number: ${{{{ {CUDA_RANK} + revision }}}}",
            "number: ${{ revision }}",
            "build number",
            ["vllm-kernels of linux-64-cuda", "must be higher"],
        ),
        (
            f"number: ${{{{ {CUDA_NUMBER} + revision }}}}",
            f"number: ${{{{ {CUDA_SLICE} + 100 * 124 + revision }}}}",
            "build number",
            [
                "vllm-kernels-cuda of linux-64-cuda-13.0-all",
                "linux-64-cuda-12.9-all",
                "must be higher",
            ],
        ),
        (
            f"number: ${{{{ {CUDA_NUMBER} + revision }}}}",
            f"number: ${{{{ {CUDA_SLICE} + 100 * 124 + revision }}}}",
            "choice",
            ["vllm-kernels-cuda of linux-64-cuda-12.4-sm90", "a linux-64 node", "may take either"],
        ),
        (
            f"number: ${{{{ {CUDA_RANK} + revision }}}}",
            f"number: ${{{{ (20000 if {CUDA_RANK} else 0) - {CUDA_RANK} + revision }}}}",
            "choice",
            ["vllm-kernels of linux-64-cuda-12.4-all", "the second alone has machine code"],
        ),
        (
            '          then: __cuda_arch ${{ cuda_arch_bound | default("") }}\n'
            "      ignore_run_exports:",
            "          then: __cuda_arch >=7.5\n      ignore_run_exports:",
            "choice",
            [
                "vllm-kernels-cuda of linux-aarch64-cuda-12.9-all",
                "no code",
                "GPU of 8.7",
                "may take it",
            ],
        ),
        (
            '- __cuda_arch ${{ vllm_flashmla_arch_bound | default("") }}',
            "- __cuda_arch >=8.0",
            "choice",
            ["vllm-flashmla of linux-64-cuda-12.4-all", "no code", "GPU of 8.0", "may take it"],
        ),
        (
            DRIVER_BOUND,
            f"__cuda >=${{{{ {MAJOR} }}}}",
            "choice",
            ["vllm-kernels-cuda of linux-64-cuda-13.4-all", "whose CUDA is newer than its driver"],
        ),
        (
            CPU_KEYS + "        ignore_keys:\n",
            "        use_keys:\n          - cpu_source_hash\n"
            "        ignore_keys:\n          - microarch_level\n",
            "file name",
            [
                "vllm-kernels-cpu",
                "linux-64-cpu-x86-64-v3",
                "linux-64-cpu-x86-64-v4",
                "different content",
            ],
        ),
        (
            '        - (cuda_slice | default("all")) != "all"\n',
            "",
            "complete",
            [
                "cuda-13.0-sm80 renders vllm-core, vllm-kernels-cuda, vllm-kernels",
                "wanted vllm-core",
            ],
        ),
    ],
)
def test_planted_fault_is_named(
    tmp_path: Path, old: str, new: str, rule: str, parts: list[str]
) -> None:
    root = support.checkout(tmp_path / "checkout")
    path = root / "recipe" / "recipe.yaml"
    text = path.read_text()
    # Several packages may have the line; then all of them get the fault.
    assert old in text, "the recipe has changed: plant the fault anew"
    text = text.replace(old, new)
    if rule == "file name":
        # The name follows from hash and number, so the number must agree too.
        text = re.sub(r"number: \$\{\{ 100 \* .*\n", "number: 300\n", text)
    path.write_text(text)
    found = broken(root)
    assert any(
        line.startswith(f"{rule}: ") and all(part in line for part in parts) for line in found
    ), "\n".join(found)


def test_package_without_a_source_hash(tmp_path: Path) -> None:
    root = support.checkout(tmp_path / "checkout")
    path = root / "recipe" / "recipe.yaml"
    text = path.read_text()
    for line in (
        "          - cuda_source_hash\n",
        '          VLLM_SOURCE_HASH: ${{ cuda_source_hash | default("release") }}\n',
    ):
        assert text.count(line) == 1
        text = text.replace(line, "")
    path.write_text(text)
    assert any("vllm-kernels-cuda" in line and "no _source_hash" in line for line in broken(root))


def test_every_rule_has_a_planted_fault() -> None:
    planted = {mark.args[1][i][2] for mark in _marks() for i in range(len(mark.args[1]))}
    assert planted == set(RULES)


def _marks() -> list[pytest.Mark]:
    return list(test_planted_fault_is_named.pytestmark)  # type: ignore[attr-defined]


def test_command_fails_with_the_recipe_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = support.checkout(tmp_path / "checkout")
    assert main(["lint", "--root", str(root)]) == 0
    assert f"{len(RULES)} rules hold" in capsys.readouterr().out
    path = root / "recipe" / "recipe.yaml"
    level = 'VLLM_CPU_LEVEL: ${{ microarch_level | default("0") }}'
    path.write_text(path.read_text().replace(level, "A: b"))
    for words in (["lint"], ["render", "--all", "--lint"]):
        assert main([*words, "--root", str(root)]) == RecipeError.exit_code
        message = capsys.readouterr().err
        assert "staging key: vllm-kernels-cpu" in message
        assert "recipe/recipe.yaml" in message
        assert "Traceback" not in message
