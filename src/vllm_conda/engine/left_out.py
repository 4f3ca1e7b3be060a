"""Runs that the engine's full test leaves out, each with the reason, which its page states."""

from __future__ import annotations

from dataclasses import dataclass

from packaging.version import Version


@dataclass(frozen=True)
class LeftOut:
    """Runs of some models or features, and why they are not made.

    Attributes:
        names: Models, features (:data:`~vllm_conda.engine.cases.FEATURES`), or a refusal's model
            after ``refusal``.
        reason: One sentence.
        device: Where; everywhere if empty.
        dtypes: In which types; in every one if empty.
        since: The first engine's version that it is true of; every one's if empty.
        until: The first that it is not true of any more.
        without: The Python package without which it is true.
    """

    names: tuple[str, ...]
    reason: str
    device: str = ""
    dtypes: tuple[str, ...] = ()
    since: str = ""
    until: str = ""
    without: str = ""

    def of_engine(self, engine: str) -> bool:
        """Whether it is true of a version; of an unknown (empty) one what is true of all."""
        if not engine:
            return not self.since and not self.until
        version = Version(engine)
        if self.since and version < Version(self.since):
            return False
        return not self.until or version < Version(self.until)

    @property
    def engines(self) -> str:
        """Which ones, in words."""
        if self.since:
            return f"from {self.since} on"
        return f"before {self.until}" if self.until else "all"


LEFT_OUT = (
    LeftOut(
        ("gemma2", "gemma3"),
        "The engine refuses Gemma in float16, whose range is too small for it.",
        dtypes=("float16",),
    ),
    LeftOut(
        (
            *("llama_fp8", "llama_w4a8_float8", "qwen3_moe_fp8", "qwen3_moe_fp8_deep_gemm"),
            *("qwen3_moe_w4a8_float8", "gpt_oss", "deepseek_v32"),
        ),
        "The engine's layers or kernels of these checkpoints have no float16.",
        dtypes=("float16",),
    ),
    LeftOut(
        (
            *("llama_gptq", "llama_gptq_in_order", "llama_awq", "llama_fp8", "llama_w8a8"),
            *("qwen3_moe_awq", "qwen3_moe_fp8", "qwen3_moe_w8a8", "gpt_oss"),
        ),
        "The engine takes these checkpoints in 16 bits only.",
        device="cpu",
        dtypes=("float32",),
    ),
    LeftOut(
        ("llama_w4a8", "qwen3_next"),
        "The engine takes it on a CPU in bfloat16 only.",
        device="cpu",
        dtypes=("float32", "float16"),
    ),
    LeftOut(
        ("qwen3_next",),
        "The engine's kernels of gated delta nets are for bfloat16.",
        device="cuda",
        dtypes=("float16",),
    ),
    LeftOut(
        ("llama_w4a8",),
        "4-bit weights with INT8 activations are a switch of CPUs (VLLM_CPU_INT4_W4A8).",
        device="cuda",
    ),
    LeftOut(
        ("llama_w4a8_float8", "qwen3_moe_w4a8_float8"),
        "The engine has kernels of 4-bit weights with FP8 activations for Hopper alone.",
        device="cpu",
    ),
    LeftOut(
        ("llama_nvfp4",),
        "The engine multiplies NVFP4 weights by Marlin alone, which is for GPUs: refused.",
        device="cpu",
    ),
    LeftOut(
        ("deepseek_v32",),
        "No engine has sparse attention on a CPU: refused.",
        device="cpu",
    ),
    LeftOut(
        ("mamba",),
        "No engine has the scan of the first Mamba's prompts on a CPU: refused.",
        device="cpu",
    ),
    LeftOut(
        ("mamba2",),
        "The engine has no state-space layers on a CPU: refused.",
        device="cpu",
        until="0.27",
    ),
    LeftOut(
        ("qwen3_moe_fp8_deep_gemm",),
        "A CPU has no DeepGEMM.",
        device="cpu",
    ),
    LeftOut(
        ("llama_gptq",),
        "The engine refuses GPTQ's act-order itself.",
        since="0.30",
    ),
    LeftOut(
        ("refusal deepseek_v2",),
        "The engine has latent attention on a CPU, so nothing is refused.",
        device="cpu",
        since="0.32",
    ),
    LeftOut(
        ("refusal mamba2",),
        "The engine has state-space layers on a CPU, so nothing is refused.",
        device="cpu",
        since="0.27",
    ),
    LeftOut(
        ("tensor_parallel_graphs",),
        "A CPU has no CUDA graphs.",
        device="cpu",
    ),
    LeftOut(
        ("vision",),
        "It wants torchvision, which the engine's package does not bring.",
        device="cpu",
        without="torchvision",
    ),
)


def reason(
    names: tuple[str, ...], dtype: str, device: str, engine: str, lacks: frozenset[str]
) -> str:
    """Why a run is left out; empty where it is not.

    Args:
        names: Of the case, any of which may be left out.
        lacks: Of :attr:`LeftOut.without`, those that are known not to be installed.
    """
    for one in LEFT_OUT:
        if (
            not set(one.names).isdisjoint(names)
            and one.device in ("", device)
            and (not one.dtypes or dtype in one.dtypes)
            and one.of_engine(engine)
            and (not one.without or one.without in lacks)
        ):
            return one.reason
    return ""


def packages() -> frozenset[str]:
    """The Python packages that some runs want."""
    return frozenset(one.without for one in LEFT_OUT if one.without)
