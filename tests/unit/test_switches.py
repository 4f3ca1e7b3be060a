"""Every variable and build option of the sources is on its page, and every one there is read."""

from __future__ import annotations

import re
import subprocess

from support import ROOT

from vllm_conda.generate import switches
from vllm_conda.site.overrides import VARIABLES

OWN = r"VLLM_(KERNELS_|CONDA_|CROSS_|ENGINE_SDIST|FLASHINFER_|COMPILE_LOG|SANITIZE_CASES)[A-Z0-9_]*"
SOURCES = ("src", "csrc", "cmake", "recipe", "scripts", "tests", "benchmarks", "packages", "run")
REGISTRY = "src/vllm_conda/generate/switches.py"
# Include guards, and a placeholder in packages.
NO_VARIABLE = re.compile(r"\w+_H_|\w+_CUH_|VLLM_CONDA_PREFIX")


def found() -> set[str]:
    listed = subprocess.run(
        ["git", "grep", "-hoE", rf"\b{OWN}", "--", *SOURCES,
         f":!{REGISTRY}"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {name for name in listed.stdout.split() if not NO_VARIABLE.fullmatch(name)}


def registered() -> set[str]:
    groups = switches.GROUPS.values()
    return {name for group in groups for one in group for name in one.name.split(", ")}


def test_every_variable_is_on_the_page() -> None:
    assert found() - registered() == set()
    assert {*VARIABLES.values()} <= registered()


def test_every_variable_on_the_page_is_read() -> None:
    own = {name for name in registered() if re.fullmatch(OWN, name)}
    assert own - found() == set()


def test_every_variable_is_there_once() -> None:
    names = [one.name for group in switches.GROUPS.values() for one in group]
    assert len(names) == len(set(names))


def test_every_build_option_is_on_the_page() -> None:
    text = (ROOT / switches.OPTIONS_FILE).read_text()
    options = list(switches.build_options(text))
    assert [one.name for one in options] == re.findall(r"^vllm_option\((\w+)", text, re.MULTILINE)
    assert all(one.help for one in options)
    sanitize = next(one for one in options if one.name == "VLLM_SANITIZE")
    assert (sanitize.default, sanitize.choices) == ("OFF", ("ON", "OFF"))
