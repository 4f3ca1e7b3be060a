"""Refusals of models and options whose ops are missing, with the engine's configuration faked."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Engine

from vllm_kernels import engine_api
from vllm_kernels_plugin import needs
from vllm_kernels_plugin.errors import PluginError


def config(**changes: Any) -> SimpleNamespace:
    """What the checks read of a `VllmConfig`: a plain Llama."""
    settings: dict[str, Any] = {
        "quantization": None,
        "quantization_config": None,
        "layer_types": None,
        "architecture": "LlamaForCausalLM",
        "speculative": None,
        "mla": False,
        **changes,
    }
    hf = SimpleNamespace(
        architectures=[settings["architecture"]],
        quantization_config=settings["quantization_config"],
        layer_types=settings["layer_types"],
    )
    model = SimpleNamespace(
        model="some/model",
        hf_config=hf,
        hf_text_config=hf,
        quantization=settings["quantization"],
        use_mla=settings["mla"],
    )
    return SimpleNamespace(model_config=model, speculative_config=settings["speculative"])


def scheme(weights: int, activations: int | None, kind: str = "int") -> dict[str, Any]:
    group: dict[str, Any] = {"weights": {"type": kind, "num_bits": weights}}
    if activations:
        group["input_activations"] = {"type": "int", "num_bits": activations}
    return {"config_groups": {"group_0": group}}


@pytest.fixture
def no_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "is_served", lambda op: False)


@pytest.mark.usefixtures("no_ops")
@pytest.mark.parametrize(
    ("changes", "op"),
    [
        ({"quantization": "awq"}, "cpu_gemm_wna16"),
        ({"quantization": "gptq"}, "cpu_gemm_wna16"),
        (
            {"quantization": "compressed-tensors", "quantization_config": scheme(4, None)},
            "cpu_gemm_wna16",
        ),
        (
            {"quantization": "compressed-tensors", "quantization_config": scheme(8, 8)},
            "create_onednn_scaled_mm_handler",
        ),
        ({"quantization": "fp8"}, "fp8_scaled_mm_cpu"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "causal_conv1d_fwd_cpu"),
        ({"speculative": object()}, "rejection_greedy_sample_kernel_impl"),
        ({"speculative": SimpleNamespace(method="ngram")}, "rejection_greedy_sample_kernel_impl"),
    ],
)
def test_missing_op_is_named_with_model_and_remedy(changes: dict[str, Any], op: str) -> None:
    with pytest.raises(PluginError) as caught:
        needs.check(config(**changes), "cpu")  # type: ignore[arg-type]
    text = str(caught.value)
    assert text.startswith(f"The model some/model (LlamaForCausalLM) needs the op {op} for ")
    assert "or install a vllm-kernels-cpu that has it" in text


@pytest.mark.usefixtures("no_ops")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"quantization": "compressed-tensors", "quantization_config": scheme(8, None)},
        # The experts of gpt-oss.
        {"quantization": "mxfp4"},
    ],
)
def test_what_needs_no_special_op_passes(changes: dict[str, Any]) -> None:
    needs.check(config(**changes), "cpu")  # type: ignore[arg-type]


@pytest.mark.parametrize("device", needs.NEEDS)
def test_present_ops_are_enough(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "is_served", lambda op: True)
    monkeypatch.setenv("VLLM_CPU_SGL_KERNEL", "1")
    needs.check(config(quantization="awq", speculative=object()), device)  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_ops")
def test_switch_without_its_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_SGL_KERNEL", "1")
    with pytest.raises(PluginError, match="convert_weight_packed for VLLM_CPU_SGL_KERNEL=1"):
        needs.check(config(), "cpu")  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_ops")
@pytest.mark.parametrize(
    ("architecture", "sentence"),
    [
        ("Mamba2ForCausalLM", "mamba_chunk_scan_fwd_cpu for state-space layers .*use vLLM 0.27"),
        ("BambaForCausalLM", "mamba_chunk_scan_fwd_cpu for state-space layers"),
    ],
)
def test_state_space_layers(architecture: str, sentence: str) -> None:
    with pytest.raises(PluginError, match=sentence):
        needs.check(config(architecture=architecture), "cpu")  # type: ignore[arg-type]
    needs.check(config(architecture=architecture), "cuda")  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_ops")
def test_latent_attention_of_an_engine_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "latent_backend", lambda config: "CPU_MLA")
    with pytest.raises(PluginError, match="mla_decode_kvcache for latent attention"):
        needs.check(config(mla=True), "cpu")  # type: ignore[arg-type]
    monkeypatch.setattr(needs, "is_served", lambda op: True)
    needs.check(config(mla=True), "cpu")  # type: ignore[arg-type]


@pytest.mark.parametrize(("platform", "found"), [("{}", None), ("{'hook': 1}", "CPU_MLA")])
def test_latent_backend_of_the_engine(engine: Engine, platform: str, found: str | None) -> None:
    """The one of engines whose platform also chooses how prompts are attended to."""
    engine.write(
        "vllm/v1/attention/backends/registry.py",
        "class AttentionBackendEnum: CPU_MLA = 'CPU_MLA'",
    )
    members = platform.replace("hook", "get_mla_prefill_backend_cls")
    engine.write("vllm/platforms/cpu.py", f"CpuPlatform = type('CpuPlatform', (), {members})")
    done = engine.run("from vllm_kernels_plugin import needs; print(needs.latent_backend(None))")
    assert done.stdout.strip() == str(found), done.stderr


def test_latent_attention_forced_on() -> None:
    with pytest.raises(PluginError, match="unset VLLM_MLA_DISABLE or set it to 1"):
        needs.check(config(mla=True), "cpu")  # type: ignore[arg-type]


INT4 = ("cpu_gemm_wna16",)


def test_four_bit_weights_of_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "is_served", lambda op: op in INT4)
    dense = config(quantization="gptq")
    needs.check(dense, "cpu")  # type: ignore[arg-type]
    dense.model_config.is_moe = True
    with pytest.raises(PluginError, match="fused_experts_cpu for 4-bit weights of experts"):
        needs.check(dense, "cpu")  # type: ignore[arg-type]


def float8_scheme(strategy: str) -> dict[str, Any]:
    weights = {"type": "float", "num_bits": 8, "strategy": strategy}
    return {"config_groups": {"group_0": {"weights": weights}}}


@pytest.mark.parametrize(
    ("method", "settings", "refused"),
    [
        ("fp8", {"weight_block_size": [128, 128]}, False),
        ("fp8", {"activation_scheme": "static"}, True),
        ("fp8", None, True),  # made from a bfloat16 checkpoint
        ("compressed-tensors", float8_scheme("channel"), False),
        ("compressed-tensors", float8_scheme("block"), False),
        ("compressed-tensors", float8_scheme("tensor"), True),
    ],
)
def test_float8_weights_by_their_scales(
    method: str, settings: Any, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needs, "is_served", lambda op: op == "fp8_scaled_mm_cpu")
    model = config(quantization=method, quantization_config=settings)
    if not refused:
        needs.check(model, "cpu")  # type: ignore[arg-type]
        return
    with pytest.raises(PluginError, match="static_scaled_fp8_quant for float8 weights with one"):
        needs.check(model, "cpu")  # type: ignore[arg-type]


CUDA_INT4 = ("gptq_marlin_repack", "awq_marlin_repack", "marlin_gemm")
CUDA_EXPERTS = ("topk_softmax", "moe_align_block_size", "moe_sum")


@pytest.mark.parametrize("method", ["gptq", "awq", "auto_gptq", "auto_awq"])
def test_four_bit_weights_of_experts_on_a_gpu(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    served = [*CUDA_INT4, *CUDA_EXPERTS]
    monkeypatch.setattr(needs, "is_served", lambda op: op in served)
    experts = config(quantization=method)
    needs.check(experts, "cuda")  # type: ignore[arg-type]
    experts.model_config.is_moe = True
    with pytest.raises(PluginError, match="moe_wna16_marlin_gemm for 4-bit weights of experts"):
        needs.check(experts, "cuda")  # type: ignore[arg-type]
    served += ["moe_wna16_marlin_gemm", "moe_wna16_gemm"]
    needs.check(experts, "cuda")  # type: ignore[arg-type]


def test_four_bit_weights_with_float8_activations_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engine takes its kernel for them by the capability, though the op is not there."""
    served = list(CUDA_EXPERTS)
    monkeypatch.setattr(needs, "is_served", lambda op: op in served)
    mixed = scheme(4, None)
    mixed["config_groups"]["group_0"]["input_activations"] = {"type": "float", "num_bits": 8}
    model = config(quantization="compressed-tensors", quantization_config=mixed)
    with pytest.raises(PluginError, match="cutlass_w4a8_mm for 4-bit weights with float8"):
        needs.check(model, "cuda")  # type: ignore[arg-type]
    served += ["cutlass_w4a8_mm", "cutlass_encode_and_reorder_int4b", "cutlass_pack_scale_fp8"]
    needs.check(model, "cuda")  # type: ignore[arg-type]
    model.model_config.is_moe = True
    with pytest.raises(PluginError, match="cutlass_w4a8_moe_mm for 4-bit weights of experts"):
        needs.check(model, "cuda")  # type: ignore[arg-type]


def test_rounding_their_activations_without_the_ops_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(needs, "is_served", lambda op: op in INT4)
    monkeypatch.setenv("VLLM_CPU_INT4_W4A8", "1")
    with pytest.raises(PluginError, match="needs the op convert_weight_packed_scale_zp for VLLM_"):
        needs.check(config(quantization="awq"), "cpu")  # type: ignore[arg-type]


def test_drafting_by_n_grams_needs_less_than_by_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "is_served", lambda op: not op.startswith(("eagle_", "copy_and_")))
    for method in ("ngram", "suffix"):
        needs.check(config(speculative=SimpleNamespace(method=method)), "cpu")  # type: ignore[arg-type]
    for method in ("eagle", "mtp", "draft_model"):
        with pytest.raises(PluginError, match="for speculative decoding with a drafting model"):
            needs.check(config(speculative=SimpleNamespace(method=method)), "cpu")  # type: ignore[arg-type]
    monkeypatch.setattr(needs, "is_served", lambda op: not op.startswith("copy_and_"))
    needs.check(config(speculative=SimpleNamespace(method="eagle")), "cpu")  # type: ignore[arg-type]
    for settings in ({"method": "draft_model"}, {"method": "eagle", "parallel_drafting": True}):
        with pytest.raises(PluginError, match="for drafting of several tokens at once"):
            needs.check(config(speculative=SimpleNamespace(**settings)), "cpu")  # type: ignore[arg-type]


def test_sparse_attention_without_its_indexer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "is_served", lambda op: True)
    model = config()
    model.model_config.hf_text_config.index_topk = 2048
    monkeypatch.setattr(engine_api, "cuda_problem", lambda op: f"{op} is elsewhere")
    with pytest.raises(PluginError) as caught:
        needs.check(model, "cuda")  # type: ignore[arg-type]
    assert str(caught.value) == (
        "The model some/model (LlamaForCausalLM) selects keys for sparse attention with functions "
        "of DeepGEMM, which nothing provides (mqa_logits is elsewhere): on a Hopper GPU, "
        "`conda install vllm-deepgemm vllm-flashmla`"
    )
    monkeypatch.setitem(sys.modules, "deep_gemm", pytest)
    needs.check(model, "cuda")  # type: ignore[arg-type]


def test_experts_on_grouped_products_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "is_served", lambda op: True)
    here = {"mqa_logits"}
    monkeypatch.setattr(engine_api, "cuda_problem", lambda op: None if op in here else "gone")
    monkeypatch.setenv("VLLM_MOE_USE_DEEP_GEMM", "0")
    model = config(quantization="fp8", quantization_config={"weight_block_size": [128, 128]})
    model.model_config.is_moe = True
    needs.check(model, "cuda")  # type: ignore[arg-type]
    monkeypatch.setenv("VLLM_MOE_USE_DEEP_GEMM", "1")
    with pytest.raises(
        PluginError, match=r"on DeepGEMM \(VLLM_MOE_USE_DEEP_GEMM=1\), whose grouped .* \(gone\)"
    ):
        needs.check(model, "cuda")  # type: ignore[arg-type]
    model.kernel_config = SimpleNamespace(moe_backend="deep_gemm")
    with pytest.raises(
        PluginError, match=r"on DeepGEMM \(--moe-backend deep_gemm\), whose grouped"
    ):
        needs.check(model, "cuda")  # type: ignore[arg-type]
    here.add("grouped_mm_labelled")
    needs.check(model, "cuda")  # type: ignore[arg-type]
    # Another package's module has them.
    here.clear()
    needs.check(model, "cuda")  # type: ignore[arg-type]


def selecting_keys() -> SimpleNamespace:
    model = config(architecture="DeepseekV32ForCausalLM")
    model.model_config.hf_text_config.index_topk = 2048
    return model


FLOAT4 = scheme(4, None, "float")


@pytest.mark.parametrize(
    ("asking", "sentence"),
    [
        (selecting_keys(), "sparse attention .*: use a Hopper GPU"),
        (config(quantization="modelopt_fp4"), "FP4 weights .*: use a checkpoint in bfloat16"),
        (config(quantization="compressed-tensors", quantization_config=FLOAT4), "FP4 weights"),
        (config(architecture="JambaForCausalLM"), "state-space layers .*: use a GPU"),
    ],
)
def test_what_no_engine_has_on_a_cpu(
    asking: Any, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another vllm-kernels-cpu would not help: the sentence does not ask for one."""
    monkeypatch.setattr(needs, "is_served", lambda op: True)
    with pytest.raises(PluginError, match=sentence) as caught:
        needs.check(asking, "cpu")
    assert ", which no engine has on a CPU: " in str(caught.value)
    assert "install" not in str(caught.value)
