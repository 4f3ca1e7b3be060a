"""Asks the engine for what neither it nor the kernels have, and reports what it answered.

Runs in the engine's environment: `python refusal.py MODEL --models DIR --result FILE`, with a model
of :data:`REFUSALS`. Right is a sentence with the model and what to do, before a process is started.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import program


@dataclass(frozen=True)
class Refusal:
    """What the answer has to say.

    Attributes:
        words: Parts of the sentence, beside the model's name.
        environment: Variables of the engine.
    """

    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


REFUSALS: Mapping[str, Refusal] = {
    # Without expanding keys and values: engines before 0.32 have no backend.
    "deepseek_v2": Refusal(
        ("would run with latent attention", "unset VLLM_MLA_DISABLE or set it to 1"),
        {"VLLM_MLA_DISABLE": "0"},
    ),
    "deepseek_v32": Refusal(("sparse attention", "use a Hopper GPU")),
    "llama_nvfp4": Refusal(("FP4 weights", "use a checkpoint in bfloat16")),
    "mamba": Refusal(("state-space layers (Mamba)", "use a GPU")),
    "mamba2": Refusal(("state-space layers (Mamba 2)", "use vLLM 0.27 or newer")),
}


def ask(path: str) -> str:
    """The text of the error that the engine's start ends with; empty where it starts."""
    from vllm import LLM

    try:
        LLM(model=path, dtype="bfloat16", max_model_len=128)
    except Exception as error:
        return str(error)
    return ""


def main() -> None:
    options = program.parser(__doc__).parse_args()
    surroundings = program.surroundings(options.device)
    from models import make

    path = str(make(options.model, options.models))
    refusal = REFUSALS[options.model]
    os.environ.update(refusal.environment)
    said = ask(path)
    started = len(multiprocessing.active_children())
    row = {
        "model": options.model,
        "mode": "refused",
        **surroundings,
        "said": said,
        "processes": started,
        "right": all(words in said for words in (path, *refusal.words))
        and "Traceback" not in said
        and started == 0,
    }
    program.write(options.result, [row])


if __name__ == "__main__":
    main()
