"""Asks the engine for what the kernels do not have, and reports what it answered.

Runs in the engine's environment: `python refusal.py MODEL --models DIR --result FILE`. Right is a
sentence with the op, the model and what to do, before a process is started.
"""

from __future__ import annotations

import multiprocessing
from typing import Any

import program

# By the op that the refusal names: arguments of the engine.
WANTED: dict[str, dict[str, Any]] = {
    "fp8_scaled_mm_cpu": {"quantization": "fp8"},
}


def ask(path: str, arguments: dict[str, Any]) -> str:
    """The text of the error that the engine's start ends with; empty where it starts."""
    from vllm import LLM

    try:
        LLM(model=path, dtype="bfloat16", max_model_len=128, **arguments)
    except Exception as error:
        return str(error)
    return ""


def main() -> None:
    options = program.parser(__doc__).parse_args()
    surroundings = program.surroundings(options.device)
    from models import make

    path = str(make(options.model, options.models))
    rows = []
    for op, arguments in WANTED.items():
        said = ask(path, arguments)
        started = len(multiprocessing.active_children())
        rows.append(
            {
                "model": options.model,
                "mode": "refused",
                **surroundings,
                "said": said,
                "processes": started,
                "right": f"needs the op {op}" in said
                and path in said
                and "use a checkpoint in bfloat16" in said
                and "Traceback" not in said
                and started == 0,
            }
        )
    program.write(options.result, rows)


if __name__ == "__main__":
    main()
