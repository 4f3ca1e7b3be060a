"""What the plugin uses of the engine's own Python: classes, functions and their arguments."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from vllm_conda.engine.interface.sources import Sources, tree

_PLUGIN = "src/vllm_kernels_plugin"
_TRITON = "vllm/v1/attention/backends/triton_attn.py"
_BACKEND = "vllm/v1/attention/backend.py"
_MLA = "vllm/v1/attention/backends/mla/prefill"
_FLASH = "vllm/vllm_flash_attn/flash_attn_interface.py"
_ACTIVATION = "vllm/model_executor/layers/activation.py"
_LORA = "vllm/lora/punica_wrapper/punica_cpu.py"


@dataclass(frozen=True)
class Hook:
    """A name of the engine's that the plugin overrides, calls or relies on.

    Attributes:
        path: The engine's file.
        name: Qualified name in it.
        used_in: The file of ours that must follow a change.
        body: Whether what it does counts, and not only how it is called.
    """

    path: str
    name: str
    used_in: str
    body: bool = False


def _in(used_in: str, path: str, *names: str, body: bool = False) -> list[Hook]:
    return [Hook(path, name, f"{_PLUGIN}/{used_in}", body) for name in names]


HOOKS: tuple[Hook, ...] = (
    *_in("cpu.py", "vllm/platforms/cpu.py", "CpuPlatform"),
    *_in("cpu.py", "vllm/platforms/cpu.py", "CpuPlatform.check_and_update_config"),
    *_in("cpu.py", "vllm/platforms/interface.py", "Platform.import_ir_kernels", body=True),
    *_in("cpu.py", "vllm/platforms/interface.py", "Platform.get_compile_backend", body=True),
    *_in("cpu.py", "vllm/platforms/interface.py", "Platform.simple_compile_backend"),
    *_in("cpu.py", "vllm/platforms/interface.py", "Platform.get_default_ir_op_priority"),
    *_in("cpu.py", "vllm/config/kernel.py", "IrOpPriorityConfig"),
    *_in("cpu.py", "vllm/config/kernel.py", "IrOpPriorityConfig.with_default", body=True),
    *_in("cpu.py", "vllm/ir/op.py", "IrOp.register_impl"),
    *_in("cpu.py", "vllm/ir/op.py", "IrOp.set_default", body=True),
    *_in("cpu.py", "vllm/ir/ops/layernorm.py", "rms_norm", "fused_add_rms_norm"),
    *_in("cpu.py", "vllm/model_executor/custom_op.py", "op_registry_oot"),
    *_in("cpu.py", "vllm/model_executor/custom_op.py", "CustomOp.register_oot"),
    *_in("cpu.py", _ACTIVATION, "SiluAndMul.__init__", "SiluAndMul.forward_cuda", body=True),
    *_in("cpu.py", _ACTIVATION, "GeluAndMul.__init__", "GeluAndMul.forward_cuda", body=True),
    *_in("cpu.py", "vllm/platforms/cpu.py", "CpuPlatform.get_punica_wrapper"),
    *_in("lora.py", "vllm/lora/ops/torch_ops/lora_ops.py", "bgmv_shrink"),
    *_in("lora.py", _LORA, "PunicaWrapperCPU._apply_shrink", "PunicaWrapperCPU.add_lora_logits"),
    *_in("lora.py", _LORA, "PunicaWrapperCPU.add_lora_embedding"),
    *_in("refusal.py", "vllm/platforms/__init__.py", "builtin_platform_plugins"),
    *_in("cuda.py", "vllm/platforms/cuda.py", "_BackendCandidate"),
    *_in("cuda.py", "vllm/platforms/cuda.py", "CudaPlatformBase.check_and_update_config"),
    *_in("cuda.py", "vllm/platforms/cuda.py", "CudaPlatformBase.get_valid_backends"),
    *_in("cuda.py", "vllm/platforms/cuda.py", "CudaPlatformBase.get_attn_backend_cls"),
    *_in("cuda.py", "vllm/platforms/cuda.py", "CudaPlatformBase.get_supported_vit_attn_backends"),
    *_in("cuda.py", "vllm/v1/attention/backends/registry.py", "register_backend"),
    *_in("cuda.py", "vllm/v1/attention/backends/registry.py", "AttentionBackendEnum.CUSTOM"),
    *_in("cuda.py", f"{_MLA}/registry.py", "register_mla_prefill_backend"),
    *_in("cuda.py", f"{_MLA}/registry.py", "MLAPrefillBackendEnum.FLASH_ATTN"),
    *_in("latent.py", f"{_MLA}/flash_attn.py", "FlashAttnPrefillBackend.__init__", body=True),
    *_in("attention.py", _TRITON, "TritonAttentionBackend", "TritonAttentionMetadata"),
    *_in("attention.py", _TRITON, "TritonAttentionImpl.__init__", "TritonAttentionImpl.forward"),
    *_in("attention.py", _TRITON, "TritonAttentionImpl.do_kv_cache_update"),
    *_in("attention.py", _TRITON, "TritonAttentionBackend.get_kv_cache_shape", body=True),
    *_in("attention.py", _TRITON, "TritonAttentionBackend.get_kv_cache_stride_order", body=True),
    *_in("attention.py", _BACKEND, "AttentionType", "AttentionBackend.validate_configuration"),
    *_in("attention.py", _BACKEND, "AttentionBackend.supports_combination"),
    *_in("attention.py", _BACKEND, "AttentionBackend.supports_head_size"),
    *_in("attention.py", _BACKEND, "AttentionBackend.supports_compute_capability"),
    *_in("attention.py", _BACKEND, "AttentionBackend.supports_mm_prefix"),
    *_in("attention.py", _BACKEND, "AttentionBackend.supports_alibi_sqrt"),
    *_in("attention.py", _BACKEND, "AttentionBackend.supports_batch_invariance"),
    *_in("flash_attention.py", _FLASH, "flash_attn_varlen_func", "get_scheduler_metadata"),
    *_in("flash_attention.py", _FLASH, "is_fa_version_supported"),
    *_in("flash_attention.py", _FLASH, "fa_version_unsupported_reason"),
    *_in("flash_attention.py", _FLASH, "compile_flash_attn_varlen_func_from_specs"),
)


def hooks(sources: Sources) -> Iterator[tuple[str, str, str]]:
    """File, name and description of every hook that the release has."""
    trees: dict[str, ast.Module] = {}
    for hook in HOOKS:
        if hook.path not in sources.texts:
            continue
        if hook.path not in trees:
            trees[hook.path] = tree(hook.path, sources.texts[hook.path])
        node = _find(trees[hook.path], hook.name.split("."))
        if node is not None:
            yield hook.path, hook.name, " ".join(_describe(node, hook.body).split())


def _find(within: ast.AST, names: list[str]) -> ast.stmt | None:
    for node in getattr(within, "body", ()):
        # A name may be defined under a condition, such as the platform.
        if isinstance(node, ast.If | ast.Try) and (found := _find(node, names)) is not None:
            return found
        if names[0] in _names(node):
            if len(names) == 1:
                return node  # type: ignore[no-any-return]
            if (found := _find(node, names[1:])) is not None:
                return found
    return None


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _describe(node: ast.stmt, body: bool) -> str:
    if isinstance(node, ast.FunctionDef):
        result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        marks = "".join(f"@{ast.unparse(mark)} " for mark in node.decorator_list)
        text = f"{marks}({ast.unparse(node.args)}){result}"
        return f"{text}: {_statements(node)}" if body else text
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        fields = [
            f"{ast.unparse(item.target)}: {ast.unparse(item.annotation)}"
            for item in node.body
            if isinstance(item, ast.AnnAssign)
        ]
        return f"class({bases}) {{{'; '.join(fields)}}}"
    return ast.unparse(node)


def _statements(node: ast.FunctionDef) -> str:
    first = node.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return "; ".join(ast.unparse(item) for item in node.body[documented:])
