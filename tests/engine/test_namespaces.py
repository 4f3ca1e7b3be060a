"""Our ops against those of every engine: devices, namespaces and arguments."""

from __future__ import annotations

import pytest
import torch

from vllm_kernels import engine_api
from vllm_kernels_plugin import adapt, engines

RELEASES = [".".join(map(str, release)) for release in engines.releases()]
OURS = {name for name in engine_api.ops() if engine_api.namespace_of(name) == engine_api.NAMESPACE}
NAMES = [name for name in engine_api.ops() if name not in OURS]


def _rows(name: str) -> list[tuple[str, str, str, str]]:
    """Release, device, namespace and signature of the op, wherever the engine has it."""
    return [
        (release, device, *found)
        for release in RELEASES
        for device in ("cpu", "cuda")
        if (found := engines.ops(release, device).get(name)) and found[1] != engines.PLACEHOLDER
    ]


@pytest.mark.parametrize("name", NAMES)
def test_an_engine_has_the_op_on_its_devices(name: str) -> None:
    known = {
        device
        for release in RELEASES
        for device in ("cpu", "cuda")
        if name in engines.ops(release, device)
    }
    # A device that only later engines have it on may be missing (absent.toml tells why).
    assert set(engine_api.devices_of(name)) <= known
    first = {device for release, device, _, _ in _rows(name) if release == RELEASES[0]}
    assert set(engine_api.devices_of(name)) >= first


@pytest.mark.parametrize("name", NAMES)
def test_namespace_is_the_engines(name: str) -> None:
    assert engine_api.namespace_of(name) in {space for _, _, space, _ in _rows(name)}


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_those_of_an_engine_and_reach_from_all(name: str) -> None:
    ours = engine_api.schema(name)
    same = []
    for _, device, _, signature in _rows(name):
        if device in engine_api.devices_of(name):
            theirs = adapt.schema(name, signature)
            same.append(adapt.same_types(ours, theirs))
            # PluginError where no rule tells what an argument means.
            if not same[-1]:
                adapt.adapted(name, ours, theirs, print)
    assert any(same)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_the_engines(name: str) -> None:
    """Those of CUDA where both devices have the op: its fusion passes go by argument name."""
    ours = [argument.name for argument in engine_api.schema(name).arguments]
    device = engine_api.devices_of(name)[-1]
    spellings = [
        [argument.name for argument in adapt.schema(name, signature).arguments]
        for _, found, _, signature in _rows(name)
        if found == device
    ]
    assert ours in spellings


def test_every_namespace_of_the_engine_has_an_op_of_ours() -> None:
    oldest = (engines.ops(RELEASES[0], device) for device in ("cpu", "cuda"))
    spaces = {space for found in oldest for space, _ in found.values()}
    assert {engine_api.namespace_of(name) for name in NAMES} == spaces


def test_ops_of_ours_are_not_the_engines() -> None:
    assert not [name for name in OURS if _rows(name)]


def test_ops_stay_undefined_without_the_plugin() -> None:
    assert not hasattr(torch.ops._C, "rms_norm")
