"""What a check is, and the list that the families' modules fill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Run = Callable[[Any, torch.dtype], list[Tensor]]

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Check:
    """`run(provider, dtype)` calls `ops` and returns their results; once for each of `dtypes`."""

    ops: tuple[str, ...]
    run: Run
    dtypes: tuple[torch.dtype, ...] = FLOATS


CHECKS: list[Check] = []


def check(*ops: str, dtypes: tuple[torch.dtype, ...] = FLOATS) -> Callable[[Run], Run]:
    """Adds the function below it to the checks, as one of ``ops``."""

    def register(run: Run) -> Run:
        CHECKS.append(Check(ops, run, dtypes))
        return run

    return register
