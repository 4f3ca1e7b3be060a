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
import struct
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import abi
import pytest
import sample
import torch

COMMAND_VARIABLE = "VLLM_CROSS_COMMAND"
TIERS_VARIABLE = "VLLM_CROSS_TIERS"
SAMPLE_VARIABLE = "VLLM_CROSS_SAMPLE"
FAMILIES_VARIABLE = "VLLM_CROSS_FAMILIES"
# Families that multiply matrices: emulated, they take most of the time.
PRODUCTS = ("attention", "gated_delta_rule", "gemm", "moe_gemm", "packed", "wna16")
# What a test's family calls besides its own kernels.
CALLS = {
    "moe_gemm": ("moe_gemm", "packed", "gemm"),
    "packed": ("packed", "gemm"),
    "wna16": ("wna16", "gemm"),
}
# They look at this process: its memory, or the libraries that another Python loads.
OF_THIS_PROCESS = ("test_onednn_serves_the_best_tier_only", "test_release_frees_the_memory")
# These modules set variables of this process, which the driver does not see.
# test_arguments: what the bindings refuse, which the driver does not have.
MODULES_OF_THIS_PROCESS = ("test_arguments", "test_gemm_compact")
# More work than fits into scratch memory at once: minutes each, for code that is of no tier.
OF_NO_TIER = ("test_passes", "test_many_passes")
DTYPES = {getattr(torch, name): code for name, code in abi.dtype_codes().items()}
MAX_DIMS = abi.macro("core/abi.h", "VK_MAX_DIMS")
WORDS = abi.macro("cpu/attention/attention.h", "VK_ATTENTION_METADATA_LENGTH")


class Gone(RuntimeError):
    """The driver ended: an illegal instruction, or memory that is not the caller's."""


class _Request:
    """One call's arguments as bytes; a storage that several tensors view travels once."""

    def __init__(self) -> None:
        self.storages: list[torch.UntypedStorage] = []
        self.arguments = b""
        self.count = 0

    def add(self, value: object) -> None:
        self.count += 1
        if value is None:
            self.arguments += b"\0"
        elif isinstance(value, torch.Tensor):
            self.arguments += self._tensor(value)
        elif isinstance(value, float):
            self.arguments += struct.pack("<Bd", 3, value)
        elif isinstance(value, str):
            text = value.encode()
            self.arguments += struct.pack("<BI", 4, len(text)) + text
        else:
            self.arguments += struct.pack("<Bq", 2, int(value))  # type: ignore[call-overload]

    def _tensor(self, tensor: torch.Tensor) -> bytes:
        if tensor.dim() > MAX_DIMS:
            raise RuntimeError(f"a tensor has {tensor.dim()} dimensions, want at most {MAX_DIMS}")
        storage = tensor.untyped_storage()
        places = [known.data_ptr() for known in self.storages]
        if storage.data_ptr() in places and storage.nbytes() > 0:
            place = places.index(storage.data_ptr())
        else:
            place = len(self.storages)
            self.storages.append(storage)
        dtype = DTYPES.get(tensor.dtype, -1)
        offset = tensor.storage_offset() * tensor.element_size()
        head = struct.pack("<BIQii", 1, place, offset, dtype, tensor.dim())
        return head + struct.pack(f"<{2 * tensor.dim()}q", *tensor.shape, *tensor.stride())

    def message(self, name: str) -> bytes:
        text = name.encode()
        body = struct.pack("<I", len(text)) + text + struct.pack("<I", len(self.storages))
        for storage in self.storages:
            body += struct.pack("<Q", storage.nbytes()) + _bytes_of(storage).numpy().tobytes()
        body += struct.pack("<I", self.count) + self.arguments
        return struct.pack("<I", len(body)) + body


def _bytes_of(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)  # type: ignore[call-overload,no-any-return]


class Driver:
    """The emulated process."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        self._process: subprocess.Popen[bytes] | None = None
        # One conversation: threads take turns.
        self._turn = threading.Lock()

    def call(self, name: str, *values: object) -> tuple[int, list[int], str]:
        """Call a function of the C ABI; the tensors hold what it wrote.

        Returns:
            The result number, the four result words and the text.

        Raises:
            RuntimeError: the function refused; its sentence.
            Gone: the process died.
        """
        request = _Request()
        for value in values:
            request.add(value)
        with self._turn:
            answer = self._exchange(request.message(name), name)
        status, result = struct.unpack_from("<iq", answer)
        words = list(struct.unpack_from(f"<{WORDS}i", answer, 12))
        at = 12 + 4 * WORDS
        (size,) = struct.unpack_from("<I", answer, at)
        text = answer[at + 4 : at + 4 + size].decode()
        at += 4 + size
        for storage in request.storages:
            if storage.nbytes():
                content = torch.frombuffer(
                    bytearray(answer[at : at + storage.nbytes()]), dtype=torch.uint8
                )
                _bytes_of(storage).copy_(content)
            at += storage.nbytes()
        if status != 0:
            raise RuntimeError(text)
        return result, words, text

    def functions(self) -> list[str]:
        """The C functions that it calls, without their prefix."""
        return self.call("functions")[2].split()

    def families(self) -> list[str]:
        """The kernel families of its library."""
        return self.call("families")[2].split()

    def close(self) -> None:
        """End the process, whose time then counts as this one's."""
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def _exchange(self, message: bytes, name: str) -> bytes:
        if self._process is None:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(message)
            process.stdin.flush()
            head = process.stdout.read(4)
        except BrokenPipeError:
            head = b""
        if len(head) < 4:
            self._process = None
            raise Gone(f"{name}: {' '.join(self.command)} ended with code {process.wait()}")
        return process.stdout.read(struct.unpack("<I", head)[0])


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


def implementations(driver: Driver) -> dict[str, Callable[..., Any]]:
    """By op: the same conversions as csrc/cpu/*/binding.cc, with the driver instead of the library.

    An op that has the name of a function has its arguments too, unless it is named here.
    """

    def plain(name: str, op: str = "") -> Callable[..., None]:
        schema = getattr(torch.ops.vllm_kernels, op or name).default._schema

        def call(*values: object) -> None:
            left_out = schema.arguments[len(values) :]
            driver.call(name, *values, *(argument.default_value for argument in left_out))

        return call

    def attention(
        q: object, k: object, v: object, out: object, starts: object, lengths: object,
        scale: float, causal: bool, slopes: object, window: int, table: object, softcap: float,
        _metadata: object, sinks: object, dynamic: object, k_scale: float = 1.0,
        v_scale: float = 1.0, cache_dtype: str = "auto",
    ) -> None:  # fmt: skip
        driver.call(
            "attention", q, k, v, out, starts, lengths, table, slopes, sinks, dynamic,
            float(scale), float(softcap), window, causal, float(k_scale),
            float(v_scale), cache_dtype,
        )  # fmt: skip

    def metadata(
        requests: int, heads: int, kv_heads: int, head_size: int, lengths: torch.Tensor, *_: object
    ) -> torch.Tensor:
        words = driver.call("attention_metadata", requests, heads, kv_heads, head_size)[1]
        return torch.tensor(words, dtype=torch.int32).view(torch.int8)

    def reshape(
        key: object, value: object, key_cache: object, value_cache: object, slots: object,
        isa: str, k_scale: float = 1.0, v_scale: float = 1.0, dtype: str = "auto",
    ) -> None:  # fmt: skip
        driver.call(
            "reshape_and_cache", key, value, key_cache, value_cache, slots, isa, float(k_scale),
            float(v_scale), dtype,
        )  # fmt: skip

    def create(b: object, _cache: int) -> int:
        return driver.call("create_onednn_mm_handler", b)[0]

    def create_scaled(
        b: object, scales: object, dtype: torch.dtype, dynamic: bool, azp: bool, _cache: int
    ) -> int:
        number = DTYPES.get(dtype, -1)
        return driver.call("create_onednn_scaled_mm_handler", b, scales, number, dynamic, azp)[0]

    def choose(name: str) -> Callable[..., torch.Tensor]:
        def call(logits: torch.Tensor, *values: object) -> torch.Tensor:
            tokens = logits.new_empty(logits.shape[:1], dtype=torch.int64)
            driver.call(name, tokens, logits, *values)
            return tokens

        return call

    def convert(weight: torch.Tensor) -> torch.Tensor:
        driver.call("convert_weight_packed", weight, None)
        packed = torch.empty(weight.shape, dtype=weight.dtype)
        driver.call("convert_weight_packed", weight, packed)
        return packed

    def convert_scale(scale: torch.Tensor) -> torch.Tensor:
        driver.call("convert_scale_packed", scale, None)
        packed = torch.empty(scale.shape, dtype=scale.dtype)
        driver.call("convert_scale_packed", scale, packed)
        return packed

    def experts(*values: Any) -> None:
        (out, x, w1, w2, weights, ids, method, scale1, scale2, _, _, _, block, bias1, bias2,
         alpha, limit, _, act) = values  # fmt: skip
        driver.call(
            "fused_experts", out, x, w1, w2, weights, ids, method, scale1, scale2,
            *(block or (0, 0)), bias1, bias2, act, 1.702 if alpha is None else float(alpha),
            7.0 if limit is None else float(limit),
        )  # fmt: skip

    def fp8(
        mat1: torch.Tensor, mat2: torch.Tensor, scales: object, block: Sequence[int],
        bias: object, dtype: torch.dtype, packed: bool,
    ) -> torch.Tensor:  # fmt: skip
        if len(block) != 2:
            raise RuntimeError(f"fp8_scaled_mm_cpu: block_size has {len(block)} elements, want 2")
        if dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise RuntimeError("fp8_scaled_mm_cpu: out_dtype is another dtype")
        out = torch.empty(mat1.shape[0], mat2.shape[0], dtype=dtype)
        driver.call("fp8_scaled_mm", out, mat1, mat2, scales, *block, bias, packed)
        return out

    def int8(
        mat1: torch.Tensor, mat2: torch.Tensor, scales: object, bias: object,
        dtype: torch.dtype, packed: bool,
    ) -> torch.Tensor:  # fmt: skip
        out = torch.empty(mat1.shape[0], mat2.shape[0], dtype=dtype)
        driver.call("int8_scaled_mm", out, mat1, mat2, scales, bias, packed)
        return out

    def pack(weight: torch.Tensor) -> torch.Tensor:
        return weight.t().contiguous().t()

    def convolve(x: torch.Tensor, *values: Any) -> torch.Tensor:
        out = x.new_zeros(x.shape[::-1]).t()
        driver.call("causal_conv1d_fwd", out, x, *values[:-1])
        return out

    def convolve_next(x: torch.Tensor, *values: Any) -> torch.Tensor:
        out = torch.zeros_like(x, memory_format=torch.contiguous_format)
        driver.call("causal_conv1d_update", out, x, *values[:-1])
        return out

    def convolve_some(x: torch.Tensor, *values: Any) -> torch.Tensor:
        out = torch.zeros_like(x, memory_format=torch.contiguous_format)
        driver.call("causal_conv1d_update_vec", out, x, *values)
        return out

    def gates(
        a_log: object, a: torch.Tensor, b: torch.Tensor, dt_bias: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        g, beta = a.new_zeros((1, *a.shape), dtype=torch.float32), b.new_zeros((1, *a.shape))
        driver.call("fused_gdn_gating", g, beta, a_log, a, b, dt_bias)
        return g, beta

    def delta_rule(
        q: object, k: object, v: torch.Tensor, g: object, beta: object, states: torch.Tensor,
        final: bool, starts: object, head_first: bool, normalise: bool, slots: torch.Tensor,
        epsilon: float = 1e-5,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        out = torch.zeros_like(v, memory_format=torch.contiguous_format)
        count = len(slots) if final else 0
        last = states.new_zeros((count, *states.shape[1:]), dtype=torch.float32)
        driver.call(
            "chunk_gated_delta_rule", out, last, q, k, v, g, beta, states, starts, head_first,
            normalise, slots, float(epsilon),
        )  # fmt: skip
        return out, last

    def delta_rule_next(name: str) -> Callable[..., torch.Tensor]:
        def call(*values: Any) -> torch.Tensor:
            v = values[4]
            out = torch.zeros_like(v, memory_format=torch.contiguous_format)
            left_out = {11: (1.0, 20.0), 12: (20.0,), 13: ()}
            if name.endswith("spec"):
                left_out = {12: (1.0, 20.0), 13: (20.0,), 14: ()}
            driver.call(name, out, *values, *left_out[len(values)])
            spread = v.dim() == 4 and not name.endswith("spec")
            return out.transpose(0, 1) if spread else out

        return call

    def multiply(name: str) -> Callable[..., None]:
        def call(*values: Any) -> None:
            handle = values[-1]
            if handle.dtype != torch.int64 or handle.numel() != 1:
                raise RuntimeError(
                    f"{name}: handler_tensor is not what holds a handle, want a CPU tensor of "
                    "one int64"
                )
            driver.call(name, *values[:-1], int(handle))

        return call

    same_name = [name for name in driver.functions() if hasattr(torch.ops.vllm_kernels, name)]
    return {
        **{name: plain(name) for name in same_name},
        "cpu_attention_with_kv_cache": attention,
        "get_scheduler_metadata": metadata,
        "cpu_attn_reshape_and_cache": reshape,
        "cpu_fused_moe": plain("fused_moe", "cpu_fused_moe"),
        "mla_decode_kvcache": plain("mla_decode", "mla_decode_kvcache"),
        "cpu_gemm_wna16": plain("gemm_wna16", "cpu_gemm_wna16"),
        "convert_weight_packed": convert,
        "convert_scale_packed": convert_scale,
        "fused_experts_cpu": experts,
        "fp8_scaled_mm_cpu": fp8,
        "int8_scaled_mm_with_quant": int8,
        "causal_conv1d_weight_pack": pack,
        "causal_conv1d_fwd_cpu": convolve,
        "causal_conv1d_update_cpu": convolve_next,
        "causal_conv1d_update_cpu_vec": convolve_some,
        "fused_gdn_gating_cpu": gates,
        "chunk_gated_delta_rule_cpu": delta_rule,
        "fused_sigmoid_gating_delta_rule_update_cpu": delta_rule_next("gated_delta_rule_update"),
        "fused_sigmoid_gating_delta_rule_update_spec_cpu": delta_rule_next(
            "gated_delta_rule_update_spec"
        ),
        "greedy_argmax": choose("greedy_argmax"),
        "fused_gumbel_argmax": choose("fused_gumbel_argmax"),
        **{
            f"{name}{suffix}": plain(name, f"{name}{suffix}")
            for suffix in ("_kernel_impl", "_padded_kernel_impl", "_metadata_kernel_impl")
            for name in driver.functions()
            if hasattr(torch.ops.vllm_kernels, f"{name}{suffix}")
        },
        "create_onednn_mm_handler": create,
        "onednn_mm": multiply("onednn_mm"),
        "create_onednn_scaled_mm_handler": create_scaled,
        "onednn_scaled_mm": multiply("onednn_scaled_mm"),
        "cpu_attn_has_isa": lambda isa: bool(driver.call("attention_has_isa", isa)[1][0]),
        "is_onednn_acl_supported": lambda: False,
    }


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
        family = _family_of(module, families)
        served = family and (step <= 1 or own & {*CALLS.get(family, (family,))})
        if served and name not in (*OF_THIS_PROCESS, *OF_NO_TIER):
            parameters = [_parameters(case) for case in cases]
            chosen = sample.keep(parameters, step, tier, whole=family not in PRODUCTS)
            kept |= {cases[place] for place in chosen}
    if dropped := [item for item in items if item not in kept]:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item in kept]


def _family_of(module: str, families: Iterable[str]) -> str:
    """``gemm`` for test_gemm and test_gemm_scaled; empty: its ops are not the driver's.

    Such a module would compare references with themselves.
    """
    if module in MODULES_OF_THIS_PROCESS:
        return ""
    found = (name for name in families if f"{module}_".startswith(f"test_{name}_"))
    return max(found, key=len, default="")


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
