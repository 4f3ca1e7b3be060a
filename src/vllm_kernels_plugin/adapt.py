"""Ops whose arguments differ from engine to engine, called with those of the installed one.

Our schema (csrc/torch/ops.def) is that of one release. Where another has the same types in the
same order, the kernel itself is registered, and a call costs nothing more. Otherwise a function
here stands before it: it passes on what both have, fills in what only we have, and refuses what we
do not compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from vllm_kernels_plugin.errors import PluginError, no_kernel

Values = tuple[Any, ...]
Fill = Callable[[Values], Any]


def _empty(values: Values) -> torch.Tensor:
    """No order of activations, as upstream says it: an empty tensor beside the weights."""
    weights = next(value for value in values if isinstance(value, torch.Tensor))
    return weights.new_empty((0,), dtype=torch.int32)


def _product(values: Values) -> torch.Tensor:
    """[M, N] for mat1 [M, K] and mat2 [N, K], the first arguments."""
    mat1, mat2 = values[:2]
    return torch.empty((mat1.shape[0], mat2.shape[0]), dtype=mat1.dtype, device=mat1.device)


def _like_hidden_states(values: Values) -> torch.Tensor:
    return torch.empty_like(values[0])


def _older_activation(values: Values) -> int:
    """Engines that do not name the activation mean gpt-oss's where they pass its ``alpha``."""
    return int(values[-3] is not None)


def _each_its_own(values: Values) -> torch.Tensor:
    """The states that the engine has gathered: sequence s has state s."""
    return torch.arange(values[5].shape[0], dtype=torch.int32)


def _value(value: object) -> Fill:
    return lambda _: value


@dataclass(frozen=True)
class Rule:
    """How the arguments of one op are translated.

    Attributes:
        fill: Ours that other engines do not pass: what stands for them. The function gets the
            engine's arguments.
        unused: Theirs that do not change a result here.
        only: Theirs of which only this value is computed.
        returned: Our output that they do not pass but want returned.
    """

    fill: Mapping[str, Fill] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    only: Mapping[str, object] = field(default_factory=dict)
    returned: str = ""


# Rows that only pad a batch are routed like others; nothing reads what they give.
_PADDING = ("is_padding",)
_NOTHING = _value(None)

# Engines that know one way alone.
_NORMED = {"apply_q_norm": _value(True)}
_QUERIES_ALIKE = {
    **_NORMED,
    "kv_mxfp8": _value(False),
    "apply_q_rope": _value(True),
    "is_q_interleaved": _value(False),
}
_DEEPSEEK_V4 = "fused_deepseek_v4_qnorm_rope_kv_rope"

RULES: Mapping[str, Rule] = {
    "chunk_gated_delta_rule_cpu": Rule(fill={"initial_state_indices": _each_its_own}),
    # Before 0.30 the caches have the dtype of what is written.
    "concat_and_cache_mla_grouped": Rule(
        fill={"kv_scales": _NOTHING, "kv_cache_dtype": _value("auto")}
    ),
    "concat_and_cache_mla": Rule(only={"skip_scale": False}),
    "cp_gather_and_upconvert_fp8_kv_cache": Rule(
        only={"host_cache": None, "host_row_ids": None, "device_row_ids": None}
    ),
    "cpu_gemm_wna16": Rule(fill={"g_idx": _NOTHING}),
    # A hint about when the next kernel may start.
    "dsv3_fused_a_gemm": Rule(unused=("enable_pdl",)),
    "fused_experts_cpu": Rule(
        fill={"out": _like_hidden_states, "a1_scale": _NOTHING, "act_method": _older_activation},
        only={"inplace": False},
        returned="out",
    ),
    f"{_DEEPSEEK_V4}_full_cache_bf16_insert": Rule(fill=_NORMED),
    f"{_DEEPSEEK_V4}_full_cache_fp8_insert": Rule(fill=_NORMED),
    f"{_DEEPSEEK_V4}_quant_insert": Rule(fill=_QUERIES_ALIKE),
    "fused_minimax_m3_qknorm_rope_kv_insert": Rule(
        fill={
            "q_fp8_out": _NOTHING,
            "q_fp8_scale": _value(1.0),
            "kv_k_scale": _NOTHING,
            "kv_v_scale": _NOTHING,
        }
    ),
    # Of 0.28, whose models all have that gate.
    "fused_gdn_decode_post_conv_mtp": Rule(fill={"output_gate_activation": _value("silu")}),
    # Our plan does not depend on the cache's type.
    "get_scheduler_metadata": Rule(unused=("kv_cache_dtype",)),
    "gptq_gemm": Rule(fill={"b_g_idx": _empty}),
    "gptq_marlin_repack": Rule(fill={"perm": _empty}),
    "gptq_shuffle": Rule(fill={"q_perm": _empty}),
    "marlin_gemm": Rule(
        fill={
            "g_idx_or_none": _NOTHING,
            "perm_or_none": _NOTHING,
            "is_k_full": _value(True),
        }
    ),
    "moe_align_block_size": Rule(fill={"scatter_idx": _NOTHING}),
    "moe_wna16_marlin_gemm": Rule(
        fill={
            "g_idx_or_none": _NOTHING,
            "perm_or_none": _NOTHING,
            "is_full_k": _value(True),
        }
    ),
    "reshape_and_cache": Rule(only={"interleaved_v": False}),
    # Of 0.29 alone.
    "situ_and_mul": Rule(fill={"valid_rows": _NOTHING}),
    # Older engines have the result returned.
    "weight_packed_linear": Rule(fill={"out": _product}, returned="out"),
    "topk_sigmoid": Rule(unused=_PADDING),
    "topk_softmax": Rule(unused=_PADDING),
    # The sentinel says which tokens take the other bias.
    "topk_softplus_sqrt": Rule(unused=(*_PADDING, "image_sentinel_lo"), only={"bias_vl": None}),
}


def schema(name: str, signature: str) -> torch.FunctionSchema:
    """A signature of the table, parsed."""
    # Upstream spells one optional integer as written; PyTorch's parser does not take that.
    return torch._C.parse_schema(f"engine::{name}{signature.replace('int!?', 'int?')}")


def same_types(ours: torch.FunctionSchema, theirs: torch.FunctionSchema) -> bool:
    """Whether a kernel of our schema can be called with their arguments."""

    def types(schema: torch.FunctionSchema) -> list[str]:
        return [str(value.type) for value in (*schema.arguments, *schema.returns)]

    return len(ours.arguments) == len(theirs.arguments) and types(ours) == types(theirs)


def adapted(
    name: str,
    ours: torch.FunctionSchema,
    theirs: torch.FunctionSchema,
    function: Callable[..., Any],
) -> Callable[..., Any]:
    """``function``, which takes our arguments, as one that takes theirs.

    Raises:
        PluginError: No rule says what an argument that only one of them has means.
    """
    rule = RULES.get(name, Rule())
    places = {argument.name: at for at, argument in enumerate(theirs.arguments)}
    known = {argument.name for argument in ours.arguments}
    unknown = [
        word for word in places if word not in known | set(rule.unused) | rule.only.keys()
    ] + [word for word in known if word not in places and word not in rule.fill]
    if unknown:
        raise PluginError(
            f"the installed engine calls the op {name} with other arguments than these kernels "
            f"know ({', '.join(sorted(unknown))}): install a vllm-core that serves this engine"
        )
    defaults = tuple(argument.default_value for argument in theirs.arguments)
    takes = [(places.get(one.name, -1), rule.fill.get(one.name)) for one in ours.arguments]
    refused = [(places[word], word, value) for word, value in rule.only.items() if word in places]
    names = list(places)
    returned = next((at for at, one in enumerate(ours.arguments) if one.name == rule.returned), -1)

    def call(*args: Any, **kwargs: Any) -> Any:
        values = args + defaults[len(args) :]  # the dispatcher leaves out trailing defaults
        if kwargs:
            values = tuple(kwargs.get(word, values[at]) for at, word in enumerate(names))
        for at, word, value in refused:
            if values[at] is not value and values[at] != value:
                no_kernel(name, word)
        given = [
            values[at] if at >= 0 else fill(values)  # type: ignore[misc]
            for at, fill in takes
        ]
        result = function(*given)
        return given[returned] if returned >= 0 and theirs.returns else result

    return call
