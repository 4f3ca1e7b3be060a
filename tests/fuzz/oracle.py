"""What must hold of every call: it ends, it writes what it may, and what it computes is right."""

from __future__ import annotations

import functools
import math
import re
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor

from vllm_kernels import engine_api, selftest

from . import ranks
from .calls import Call, describe, ops, written
from .calls import named as named_arguments
from .gpu import Gpu
from .memory import Arenas, Placed, plain, shared
from .tolerance import FLOATS, NUDGES, cancelled, codes, distance, grows, near, nudged, rounding
from .trust import specified

# Sentences of PyTorch's own parser of arguments, which ends a call before it reaches us.
# So does its conversion of a number that stands for no dtype, which no torch.dtype gives: where its
# own source has it, for the same header among its includes is compiled into us.
_PARSER = re.compile(
    r"^(vllm_kernels::\w+\(\)|Overloaded torch operator|Unknown keyword"
    r"|call, (?!\S*\binclude/)/\S+/stable/stableivalue_conversions\.h:\d+, "
    r"Not yet supported ScalarType \w+, )"
)
_INTERNAL = re.compile(r"API call failed|\.(h|cc|cpp)\b.*\bline \d+|aoti_|Traceback")
_LONGEST = 500
_REFERENCE_SECONDS = 3.0
_MOST = 1 << 22  # elements, expanded ones too, that are worth comparing
# Results are numbers of native objects, or what only the kernels understand.
_OPAQUE = {
    # As many parts as the device has multiprocessors for, cut evenly; the references' is one part.
    *("mla_schedule", "paged_mqa_logits_schedule"),
    *("create_onednn_mm_handler", "create_onednn_scaled_mm_handler"),
    *("prepack_moe_weight", "prepack_moe_weight_int8"),
    *("get_scheduler_metadata", "release_dnnl_matmul_handler", "init_cpu_memory_env"),
    *("cpu_attn_has_isa", "convert_weight_packed", "convert_scale_packed"),
}
# Families whose caches hold float8 as bytes.
_OF_CODES = ("cache", "qkv")
# Of experts: what packs their weights, and the dtypes that it takes.
_PACKERS = {
    "cpu_fused_moe": ("prepack_moe_weight", FLOATS),
    "cpu_fused_moe_int8": ("prepack_moe_weight_int8", (torch.int8,)),
}
# Each step multiplies the state.
_RECURRENT = {
    *("chunk_gated_delta_rule_cpu", "fused_sigmoid_gating_delta_rule_update_cpu"),
    *("fused_sigmoid_gating_delta_rule_update_spec_cpu", "mamba_chunk_scan_fwd_cpu"),
    *("selective_state_update_cpu", "selective_scan_fwd"),
}
# So may sums that cancel where a clamp comes after them, which hides how large their terms were.
_CLAMPED = {"cpu_fused_moe_int8"}
# How far sums may be off whose terms lose bits: tensor cores keep 14 of a product of about 11, and
# a logit has 64 heads.
_COARSE = dict.fromkeys(("mqa_logits", "paged_mqa_logits"), 64 * 11 * 2.0**-13)
# What references raise of arguments that they do not take.
_NOT_TAKEN = (
    *(RuntimeError, ValueError, TypeError, AttributeError),
    *(LookupError, ArithmeticError, MemoryError),
)
# The reference computes each number as they do: equal for infinities, NaN and all else.
_EXACT = {"rejection_random_sample_kernel_impl", "sample_recovered_tokens_kernel_impl"}


# Where sequences start.
_STARTS = ("cu_seq_lens", "cu_seqlens", "query_start_loc", "workspace_starts")
# What is added to a mean of squares before its root.
_EPSILONS = ("epsilon", "eps", "norm_eps")


class Handles:
    """The reference's own weights behind each native handle."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._of: dict[int, int] = {}

    def created(self, call: Call, handle: int) -> None:
        """A native op has made ``handle``; so does the reference."""
        self._of[handle] = getattr(self._provider, call.op)(*call.copied().arguments)

    def translated(self, call: Call) -> Call | None:
        """The call with the reference's handle; None where there is none."""
        handle = self._of.get(int(call.arguments[-1]))
        return (
            None
            if handle is None
            else call.replaced(-1 % len(call.arguments), torch.tensor([handle]))
        )


@functools.cache
def references() -> Any:
    return selftest.references()


class Oracle:
    """Runs calls on guarded memory and counts what came of them."""

    def __init__(self, gpu: Gpu | None = None) -> None:
        self.counts = Counter[str]()
        self.faults: dict[str, str] = {}
        self.handles = Handles(references())
        self._arenas = Arenas()
        self._gpu = gpu

    def check(self, how: str, call: Call, seed: int) -> None:
        """Make the call; remember one example of each kind of fault."""
        self.counts.update(("calls", how))
        for kind, detail in self._faults(how, call, seed):
            self.counts[kind] += 1
            self.faults.setdefault(f"{call.op}: {kind}", f"{how}, {detail}: {str(call)[:2000]}")

    def _faults(self, how: str, call: Call, seed: int) -> Iterator[tuple[str, str]]:
        if call.op == "release_dnnl_matmul_handler":
            # Those that other calls use stay.
            call = Call(call.op, (abs(int(call.arguments[0])) + 2**40,))
        # What the op computes from is gone afterwards where tensors share memory.
        comparable = call.op not in _OPAQUE and _tame(call) and not _scatters_twice(call)
        comparable = comparable and specified(call)
        original = call.copied() if comparable else None
        call = _packed(call, ops)
        outputs = written(call.op)
        if self._gpu is not None:
            yield from self._outcome(original, *self._gpu.place(how, call, seed))
            return
        with self._arenas.lend() as loan:
            together = shared(call)
            for place, x in call.tensors():
                if place not in together and plain(x):
                    at_end = bool(seed >> place % 32 & 1)
                    call = call.replaced(place, loan.place(x, place in outputs, at_end))
            loan.protect()
            yield from self._outcome(original, call, loan.placed)

    def _outcome(
        self, original: Call | None, call: Call, placed: list[Placed]
    ) -> Iterator[tuple[str, str]]:
        try:
            try:
                result = call.run()
            finally:
                if self._gpu is not None:
                    self._gpu.finish()
        except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
            self.counts["refused"] += 1
            yield from _bad_sentence(call.op, str(error))
            for one in placed:
                if one.changed():
                    yield "refused and wrote", describe(one.tensor)
            return
        self.counts["accepted"] += 1
        for one in placed:
            if count := one.stray():
                yield "wrote outside", f"{count} bytes around {describe(one.tensor)}"
        yield from self._differences(original, call, result)

    def _differences(
        self, original: Call | None, call: Call, result: object
    ) -> Iterator[tuple[str, str]]:
        if call.op.startswith("create_onednn"):
            assert isinstance(result, int)
            ops.release_dnnl_matmul_handler(result)
            return
        if call.op == "allocate_shared_buffer_and_handle":
            assert isinstance(result, tuple)
            ops.free_shared_buffer(result[0])
            return
        # Collectives have none but those of groups whose ranks wait for nobody.
        provider = ranks.References if hasattr(ranks.References, call.op) else references()
        if original is None or not hasattr(provider, call.op):
            return
        expected: Call | None = _packed(original, provider)
        if call.op.startswith("onednn"):
            expected = self.handles.translated(original)
        if expected is None:
            return
        before = expected.copied() if call.op in _RECURRENT | _CLAMPED else None
        try:
            with _at_most(_REFERENCE_SECONDS):
                wanted = expected.run(provider)
        except TimeoutError:
            self.counts["without the slow reference"] += 1
            return
        except _NOT_TAKEN:
            return  # more is accepted than the reference takes
        self.counts["compared"] += 1
        pairs = [(call.arguments[at], expected.arguments[at]) for at in written(call.op)]
        if isinstance(result, Tensor) and isinstance(wanted, Tensor):
            pairs.append((result, wanted))
        moved: list[Tensor] = []
        for at, (got, want) in enumerate(pairs):
            if not isinstance(got, Tensor) or not isinstance(want, Tensor):
                continue
            if call.op in _RECURRENT and grows(want):
                continue
            said = selftest.difference(got.cpu(), want.cpu())
            if said and near(got.cpu(), want.cpu(), _coarse(expected)):
                continue
            if not said or rounding(got.cpu(), want.cpu(), cancelled(expected, provider)):
                continue
            if engine_api.family_of(call.op) in _OF_CODES and codes(got.cpu(), want.cpu()):
                continue
            if before is not None and got.shape == want.shape and got.dtype == want.dtype:
                moved = moved or nudged(before, provider)
                if distance(got, want) <= NUDGES * distance(moved[at], want):
                    continue
            yield "differs from the reference", said


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """TimeoutError where the body is still busy in Python after that long."""

    def stop(number: int, frame: object) -> NoReturn:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _coarse(call: Call) -> float:
    """How far results may be off whatever their terms cancel to."""
    if call.op == "mla_attention" and call.arguments[3].dtype == torch.float8_e4m3fn:
        # Weights of keys are float8 as well, off by 2^-4 at most.
        cache, scale = call.arguments[3].float(), call.arguments[10]
        most = float(cache.abs().nan_to_num(0.0).amax()) if cache.numel() else 0.0
        return most * (1.0 if scale is None else abs(scale.item())) * 2.0**-4
    return _COARSE.get(call.op, 0.0)


def _bad_sentence(op: str, text: str) -> Iterator[tuple[str, str]]:
    if _PARSER.match(text):
        return
    if not text.startswith(f"{op}: ") or "\n" in text or _INTERNAL.search(text):
        yield "no sentence of ours", repr(text[:300])
    elif len(text) > _LONGEST:
        yield "a long sentence", repr(text[:300])


def _scatters_twice(call: Call) -> bool:
    """Whether several values go to one place: which of them stays is nobody's promise.

    Places are slots of a cache, and tokens of experts: what pads those of 9 tokens is one of 48.
    """
    named = named_arguments(call)
    slots = named.get("slot_mapping", named.get("token_expert_indices"))
    rows, most = named.get("input", named.get("a")), torch.iinfo(torch.int64).max
    if "sorted_token_ids" in named and isinstance(rows, Tensor) and rows.dim() > 0:
        slots, most = named["sorted_token_ids"], min(max(0, rows.shape[0] * named["top_k"]), most)
    if not isinstance(slots, Tensor) or slots.dtype not in (torch.int32, torch.int64):
        return False
    if slots.layout != torch.strided or slots.device.type != "cpu" or slots.numel() > _MOST:
        return False  # those that begin at an odd address count too
    wide = slots.long()
    used = wide[(wide >= 0) & (wide < most)]
    return bool(len(set(used.tolist())) < used.numel())


def _packed(call: Call, provider: Any) -> Call:
    """Weights as the provider wants them; each has a layout of its own."""
    named = named_arguments(call)
    weight = named.get("mat2")
    if named.get("is_vnni") and isinstance(weight, Tensor) and plain(weight):
        try:
            return call.replaced(list(named).index("mat2"), provider.convert_weight_packed(weight))
        except (RuntimeError, ValueError, TypeError, IndexError):
            return call
    if call.op not in _PACKERS:
        return call
    packer, dtypes = _PACKERS[call.op]
    for place in (2, 3):
        weight = call.arguments[place]
        if not isinstance(weight, Tensor) or not plain(weight) or weight.dim() != 3:
            continue
        if not 0 < weight.numel() <= _MOST:
            continue
        if weight.is_contiguous() and weight.dtype in dtypes:
            packed = torch.zeros_like(weight)
            getattr(provider, packer)(weight, packed, "vec")
            call = call.replaced(place, packed)
    return call


def _fits_int32(azp: object, azp_adj: object) -> bool:
    """Whether zero points times sums of columns stay far from the end of what a kernel adds in."""
    if not isinstance(azp_adj, Tensor) or not plain(azp_adj) or azp_adj.numel() == 0:
        return True
    if azp_adj.numel() > _MOST or (isinstance(azp, Tensor) and azp.numel() > _MOST):
        return False
    most = float(azp_adj.double().abs().max())
    if isinstance(azp, Tensor) and plain(azp) and azp.numel() > 0:
        most *= float(azp.double().abs().max())
    return most < 2**30


def _ascends(starts: object) -> bool:
    """Whether starts of sequences are in order; where not, no search finds what another does."""
    if not isinstance(starts, Tensor) or not plain(starts) or starts.numel() > _MOST:
        return True
    if starts.dtype not in (torch.int32, torch.int64):
        return True  # refused
    return bool((starts.flatten().long().diff() >= 0).all())


def _tame(call: Call) -> bool:
    """Whether rounding alone can explain no difference worth a report."""
    exact = call.op in _EXACT
    named = named_arguments(call)
    if named.get("is_vnni") and "mat2" not in named:
        return False  # experts' weights in the kernels' own layout
    if any(float(named.get(name, 0.0)) < 0 for name in _EPSILONS):
        return False  # a sum of squares less that much may be anything near 0
    if not _fits_int32(named.get("azp"), named.get("azp_adj")):
        return False
    if not all(_ascends(named.get(name)) for name in _STARTS):
        return False
    for value in call.arguments:
        if isinstance(value, float) and not (exact or value == 0 or 1e-8 < abs(value) < 1e3):
            return False
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.device.type == "meta" or value.is_neg():
                return False
            if value.numel() > _MOST or max(value.shape, default=0) > _MOST:
                return False
            if value.dtype.is_floating_point and value.numel() > 0 and not exact:
                most = float(value.double().abs().max())
                if not math.isfinite(most) or most > 1e4:
                    return False
    return True
