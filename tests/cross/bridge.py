"""Runs the kernels of another architecture behind this process's ``torch.ops.vllm_kernels``.

A driver (driver.cc) executes under qemu-user with the foreign libvllm_kernels_cpu.so. Each op's
tensors travel there, the C ABI is called, and what it wrote comes back. So every kernel test runs
unchanged on every instruction set that qemu has, against references computed here.

Loaded as a pytest plugin (``-p bridge``): it takes the place of libvllm_kernels_cpu before the
package is imported. Environment:

    VLLM_CROSS_COMMAND: the driver's command line, as JSON list.
    VLLM_CROSS_TIERS: the tiers to test, separated by commas; the others are not listed.
    VLLM_CROSS_SAMPLE: N > 1 to run part of the families that multiply matrices: cases that have
        every value of every parameter, and every Nth of the others; and only what calls
    VLLM_CROSS_FAMILIES: the families that the tiers have kernels of their own for.
    VLLM_KERNELS_LIBRARY_DIR: folder with this machine's core and ops libraries.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import modules
import pytest
import sample
import torch
from conversions import implementations
from driver import Driver

COMMAND_VARIABLE = "VLLM_CROSS_COMMAND"
TIERS_VARIABLE = "VLLM_CROSS_TIERS"
SAMPLE_VARIABLE = "VLLM_CROSS_SAMPLE"
FAMILIES_VARIABLE = "VLLM_CROSS_FAMILIES"
# Families that multiply matrices: emulated, they take most of the time.
PRODUCTS = ("attention", "gated_delta_rule", "gemm", "moe_gemm", "packed", "wna16")
# What a test's family calls besides its own kernels.
CALLS = {
    "moe_gemm": ("moe_gemm", "packed", "gemm", "quant"),
    "packed": ("packed", "gemm", "quant"),
    "wna16": ("wna16", "gemm"),
}
# They look at this process: its memory, or the libraries that another Python loads.
OF_THIS_PROCESS = ("test_onednn_serves_the_best_tier_only", "test_release_frees_the_memory")
# More work than fits into scratch memory at once: minutes each, for code that is of no tier.
OF_NO_TIER = ("test_passes", "test_many_passes")


class EmulatedKernels:
    """What the package and its tests ask of libvllm_kernels_cpu."""

    def __init__(self, driver: Driver, only: Sequence[str]) -> None:
        self.driver = driver
        self.only = list(only)
        self.path = Path(driver.command[-1])

    def isa(self) -> str:
        return self.driver.call("isa")[2]

    def set_isa(self, name: str | None) -> None:
        self.driver.call("set_isa", name)

    def tiers(self) -> dict[str, bool]:
        rows = (line.split() for line in self.driver.call("tiers")[2].splitlines())
        found = {name: runnable == "1" for name, runnable in rows}
        return {name: found[name] for name in self.only or found}

    def abi_version(self) -> int:
        from vllm_kernels import engine_api

        return engine_api.abi_version()


# Without a tensor argument there is no device to dispatch on.
DEVICELESS = ("release_dnnl_matmul_handler", "cpu_attn_has_isa", "is_onednn_acl_supported")


def install(command: Sequence[str], only: Sequence[str] = ()) -> EmulatedKernels:
    """Let the package take the emulated kernels for its CPU library; before it is imported."""
    import importlib.util
    import sys

    driver = Driver(command)
    _DRIVERS.append(driver)
    kernels = EmulatedKernels(driver, only)
    if "vllm_kernels" in sys.modules:
        raise RuntimeError("vllm_kernels was imported before the bridge")
    # The package's __init__ loads everything, so its parts are imported beneath a bare package.
    spec = importlib.util.find_spec("vllm_kernels")
    assert spec is not None
    bare = importlib.util.module_from_spec(spec)
    sys.modules["vllm_kernels"] = bare
    from vllm_kernels import engine_api

    def register() -> None:
        for op, function in implementations(driver).items():
            key = "CompositeExplicitAutograd" if op in DEVICELESS else "CPU"
            _library().impl(op, function, key)

    engine_api.emulate_cpu(kernels, register)
    assert spec.loader is not None
    spec.loader.exec_module(bare)
    return kernels


_LIBRARIES: list[torch.library.Library] = []
_DRIVERS: list[Driver] = []


def _library() -> torch.library.Library:
    if not _LIBRARIES:
        _LIBRARIES.append(torch.library.Library("vllm_kernels", "IMPL"))  # type: ignore[no-untyped-call]
    return _LIBRARIES[0]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep what the driver can serve, and of that what VLLM_CROSS_SAMPLE asks for (sample.py)."""
    step = int(os.environ.get(SAMPLE_VARIABLE) or 1)
    # A tier's cases are a test of their own: each of them is seen on every tier.
    tests: dict[tuple[str, str, str], list[pytest.Item]] = {}
    for item in items:
        name = item.nodeid.partition("[")[0].rpartition("::")[2]
        key = (item.path.stem, name, _parameters(item).get("tier", ""))
        tests.setdefault(key, []).append(item)
    families = {family for driver in _DRIVERS for family in driver.families()}
    own = set(os.environ.get(FAMILIES_VARIABLE, "").split(","))
    kept: set[pytest.Item] = set()
    for (module, name, tier), cases in tests.items():
        family = modules.family_of(module, families)
        served = family and (step <= 1 or own & {*CALLS.get(family, (family,))})
        if served and name not in (*OF_THIS_PROCESS, *OF_NO_TIER):
            parameters = [_parameters(case) for case in cases]
            chosen = sample.keep(parameters, step, tier, whole=family not in PRODUCTS)
            kept |= {cases[place] for place in chosen}
    if dropped := [item for item in items if item not in kept]:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item in kept]


def _parameters(item: pytest.Item) -> dict[str, str]:
    callspec = getattr(item, "callspec", None)
    return {name: repr(value) for name, value in callspec.params.items()} if callspec else {}


def pytest_unconfigure() -> None:
    for driver in _DRIVERS:
        driver.close()


if COMMAND_VARIABLE in os.environ:
    install(
        json.loads(os.environ[COMMAND_VARIABLE]),
        [name for name in os.environ.get(TIERS_VARIABLE, "").split(",") if name],
    )
