"""The table of ops against the engine's: devices, namespaces and arguments."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from vllm_kernels import __version__, engine_api

TABLE = Path(__file__).parent / f"ops-{__version__}.tsv"
ROWS = [line.split("\t") for line in TABLE.read_text().splitlines() if not line.startswith("#")]
ENGINE = {(device, schema.split("(")[0]): (space, schema) for device, space, schema in ROWS}
OURS = {name for name in engine_api.ops() if engine_api.namespace_of(name) == engine_api.NAMESPACE}
NAMES = [name for name in engine_api.ops() if name not in OURS]
# The engine's CPU build registers these without arguments, only so that imports find them.
PLACEHOLDER = re.compile(r"\w+\(\) -> \(\)")


@pytest.mark.parametrize("name", NAMES)
def test_devices_are_the_engines(name: str) -> None:
    known = {
        device
        for device in ("cpu", "cuda")
        if (device, name) in ENGINE and not PLACEHOLDER.fullmatch(ENGINE[device, name][1])
    }
    assert set(engine_api.devices_of(name)) == known


@pytest.mark.parametrize("name", NAMES)
def test_namespace_is_the_engines(name: str) -> None:
    spaces = {ENGINE[device, name][0] for device in engine_api.devices_of(name)}
    assert spaces == {engine_api.namespace_of(name)}


def _signature(schema: str) -> tuple[list[tuple[str, str]], str]:
    """Types and names of the arguments, and the types of the results, without aliases."""
    left, _, results = schema.partition(" -> ")
    found = []
    for argument in filter(None, re.split(r",(?![^\[(]*[\])])", left.split("(", 1)[1][:-1])):
        words = re.sub(r"\(\w+!?( -> )?\)|\(\w+ -> \w+\)", "", argument.split("=")[0]).split()
        if words == ["*"]:
            continue
        kind = "".join(words[:-1]).replace("!", "").replace("SymInt", "int")
        found.append((kind, words[-1].replace("!", "")))
    return found, re.sub(r"\(\w+!?\)", "", results).replace(" ", "")


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_the_engines(name: str) -> None:
    device = engine_api.devices_of(name)[-1]  # CUDA's spelling where both have the op
    ours, theirs = _signature(_raw(name)), _signature(ENGINE[device, name][1])
    assert ours == theirs


def _raw(name: str) -> str:
    """Our schema, as the table spells it."""
    text = (Path(__file__).parents[2] / "csrc/torch/ops.def").read_text()
    match = re.search(rf'_OP\(\w+, \w+, {name},\s*((?:"(?:[^"\\]|\\.)*"\s*)+)\)\n', text)
    assert match is not None
    signature = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', match[1]))
    return name + signature.replace('\\"', '"')


def test_every_namespace_of_the_engine_has_an_op_of_ours() -> None:
    """But its custom all-reduce, which nothing here replaces."""
    spaces = {space for _, space, _ in ROWS}
    assert {engine_api.namespace_of(name) for name in NAMES} == spaces - {"_C_custom_ar"}


def test_ops_of_ours_are_not_the_engines() -> None:
    assert not OURS & {name for _, name in ENGINE}


def test_ops_stay_undefined_without_the_plugin() -> None:
    assert not hasattr(torch.ops._C, "rms_norm")
