"""Runs models through the engine's `LLM.generate` and compares them with transformers.

Runs in the engine's environment: `python trial.py --models DIR --result FILE --run
llama:float32:eager`. Writes a JSON list, one object a run as it ends; exit status 0 says that all
were made, not that the tokens are right.
"""

from __future__ import annotations

import argparse
import functools
import gc
import os
import random
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import program

if TYPE_CHECKING:
    from configurations import Model
    from reference import Reference

# Shorter and longer than a window and a cache block, and one token more or less than both.
PROMPT_LENGTHS = (5, 17, 31, 33, 64, 100, 127, 129, 200, 3)
TOKENS = 32
MODEL_LENGTH = 512


def prompts(vocabulary: int, count: int) -> list[list[int]]:
    """Random prompts that start like a text."""
    draw = random.Random(7)  # noqa: S311 - test data
    return [
        [1, *(draw.randrange(4, vocabulary) for _ in range(length - 1))]
        for length in PROMPT_LENGTHS[:count]
    ]


def kernels_used(model: Any) -> dict[str, list[str]]:
    """What the engine has chosen for the model's layers."""
    attention, linear = set(), set()
    for module in model.modules():
        if hasattr(module, "get_attn_backend"):
            attention.add(module.get_attn_backend().get_name())
        method = getattr(module, "quant_method", None)
        if kernel := getattr(method, "fp8_linear", None):
            linear.add(type(kernel).__name__)
    return {"attention": sorted(attention), "linear": sorted(linear)}


@functools.cache
def grouped_products() -> dict[str, int]:
    """How often the engine calls `deep_gemm`'s grouped product, from now on: it takes the function
    when it first needs one."""
    found = {"calls": 0}
    from vllm.platforms import current_platform

    from vllm_kernels_plugin import deep_gemm

    if not current_platform.is_cuda() or deep_gemm.problem() is not None:
        return found
    module = sys.modules[deep_gemm.NAME]
    multiply = module.m_grouped_fp8_gemm_nt_contiguous

    def counted(*arguments: Any, **more: Any) -> None:
        found["calls"] += 1
        multiply(*arguments, **more)

    module.m_grouped_fp8_gemm_nt_contiguous = counted  # type: ignore[attr-defined]
    return found


def wrong_choice(model: Model, used: dict[str, Any], device: str) -> str:
    """What speaks against the engine's choice of kernels; empty where nothing does."""
    if device == "cpu" or not used:
        return ""
    if model.grouped != bool(used.get("grouped")):
        return f"{used.get('grouped', 0)} calls of deep_gemm's grouped product"
    if not model.latent:
        return ""
    from vllm_kernels_plugin import flash_mla

    if flash_mla.problem() is not None:
        wanted = "TRITON_MLA"
    else:
        wanted = "FLASHMLA_SPARSE" if model.needs else "FLASHMLA"
    found = used["attention"]
    return "" if wanted in found else f"attention is {', '.join(found)}, not {wanted}"


def refused(model: Model, path: Path) -> dict[str, Any] | None:
    """A row on a model that wants optional packages which are not there; None where they are."""
    if not model.needs:
        return None
    import refusal

    from vllm_kernels_plugin import deep_gemm, flash_mla

    if deep_gemm.problem() is None and flash_mla.problem() is None:
        return None
    said = refusal.ask(str(path))
    right = all(package in said for package in model.needs) and "Traceback" not in said
    return {"mode": "refused", "said": said, "right": right}


def _mode(compilation: Any, device: str) -> str:
    """What the engine made of it: `inductor` with a C++ compiler, `traced` without, `graphs` where
    it captures the model as it is."""
    from vllm.config import CompilationMode, CUDAGraphMode

    if compilation.mode == CompilationMode.NONE:
        captured = device == "cuda" and compilation.cudagraph_mode != CUDAGraphMode.NONE
        return "graphs" if captured else "eager"
    found = {"eager": "traced"}.get(compilation.backend, compilation.backend)
    return str(found)


def generate(
    path: Path, options: argparse.Namespace, dtype: str, mode: str, cache: str
) -> dict[str, Any]:
    """Tokens and log-probabilities of every prompt, all in one batch and the last one alone."""
    from vllm import LLM, SamplingParams
    from vllm.platforms import current_platform

    program.let_capture()
    llm = LLM(
        model=str(path),
        dtype=dtype,
        kv_cache_dtype=cache,
        max_model_len=MODEL_LENGTH,
        max_num_seqs=16,
        seed=0,
        enforce_eager=mode == "eager",
        disable_log_stats=True,
        **program.memory(options.device),
    )
    compilation = llm.llm_engine.vllm_config.compilation_config
    used = llm.apply_model(kernels_used)[0] if options.inline else {}
    chosen = prompts(llm.get_tokenizer().vocab_size, options.prompts)
    sampling = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, logprobs=0)
    requests = [{"prompt_token_ids": prompt} for prompt in chosen]
    outputs = [result.outputs[0] for result in llm.generate(requests, sampling, use_tqdm=False)]
    (alone,) = llm.generate(requests[-1:], sampling, use_tqdm=False)
    # The next run's workers start when these have ended.
    llm.llm_engine.engine_core.shutdown()
    del llm
    gc.collect()
    return {
        "platform": type(current_platform).__name__,
        "mode": _mode(compilation, options.device),
        "graphs": compilation.cudagraph_mode.name if options.device == "cuda" else "NONE",
        "used": used,
        "prompts": chosen,
        "tokens": [list(output.token_ids) for output in outputs],
        "logprobs": [
            [entry[token].logprob for entry, token in zip(rows, output.token_ids, strict=True)]
            for output in outputs
            if (rows := output.logprobs) is not None
        ],
        "alone": list(alone.outputs[0].token_ids),
    }


def compare(
    reference: Reference, dtype: str, options: argparse.Namespace, model: Model, found: Any
) -> dict[str, Any]:
    """The verdict on ``found``."""
    from reference import Verdict, tolerance

    allowed = tolerance(dtype, model.experts, options.device, reference.rounded)
    verdict = Verdict()
    for prompt, tokens, logprobs in zip(
        found["prompts"], found["tokens"], found["logprobs"], strict=True
    ):
        reference.judge(verdict, allowed, prompt, tokens, logprobs)
    batching = found["alone"] == found["tokens"][-1]
    row = asdict(verdict)
    differences = row.pop("differences")
    return {
        **row,
        # For a reference of another kind, without a GPU.
        "answers": {name: found[name] for name in ("prompts", "tokens", "logprobs")},
        "mean_difference": round(fmean(differences), 4),
        "far_logprobs": sum(difference > allowed.logprob for difference in differences),
        "allowed": asdict(allowed),
        "same_alone": batching,
        # In 16 bits a batch's sums may round otherwise than a single prompt's.
        "right": verdict.right(allowed) and (batching or not allowed.exact),
    }


def main() -> None:
    arguments = program.parser(__doc__, one_model=False)
    arguments.add_argument("--prompts", type=int, default=6)
    arguments.add_argument(
        "--run", action="append", required=True, metavar="MODEL:DTYPE:MODE", help="may be repeated"
    )
    arguments.add_argument(
        "--inline", action="store_true", help="the engine's core in this process, not its own"
    )
    options = arguments.parse_args()
    surroundings = program.surroundings(options.device)
    if options.inline:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if options.device == "cuda":
        program.tune_briefly()
    from configurations import MODELS
    from models import make

    references = References(options.device)
    rows: list[dict[str, Any]] = []
    for name, dtype, mode in (run.split(":") for run in options.run):
        row = {"model": name, "dtype": dtype, "device": options.device, **surroundings}
        model = MODELS[name]
        try:
            path = make(name, options.models)
            with program.variables(model.environment):
                row |= refused(model, path) or trial(model, path, options, dtype, mode, references)
        except Exception as error:
            traceback.print_exc()
            program.forget_engine()
            row |= {"mode": mode, "right": False, "failure": program.failure(error)}
        rows.append(row)
        program.write(options.result, rows)


class References:
    """Transformers' models, those of one folder kept for the runs that follow on it."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._path: Path | None = None
        self._by_dtype: dict[str, Reference] = {}

    def of(self, model: Model, path: Path, dtype: str) -> Reference:
        """The reference of a run."""
        from reference import Reference

        if path != self._path:
            self._path, self._by_dtype = path, {}
        if dtype not in self._by_dtype:
            self._by_dtype[dtype] = Reference(
                path, dtype, self._device, model.scheme, model.rounds_cache, model.experts
            )
        return self._by_dtype[dtype]


def trial(
    model: Model,
    path: Path,
    options: argparse.Namespace,
    dtype: str,
    mode: str,
    references: References,
) -> dict[str, Any]:
    """A row on one run."""
    if options.inline:
        program.inspect_models_here()
    counted = options.inline and options.device == "cuda"
    before = grouped_products()["calls"] if counted else 0
    found = generate(path, options, dtype, mode, model.cache)
    if counted:
        found["used"]["grouped"] = grouped_products()["calls"] - before
    row = {name: found[name] for name in ("mode", "graphs", "used", "platform")}
    row |= compare(references.of(model, path, dtype), dtype, options, model, found)
    if wrong := wrong_choice(model, found["used"], options.device):
        row |= {"right": False, "failure": wrong}
    return row


if __name__ == "__main__":
    main()
