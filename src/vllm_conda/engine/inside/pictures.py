"""Pictures in prompts: what the engine is asked, and what transformers says, for features.py."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from configurations import IMAGE_TOKENS
from PIL import Image
from reference import Reference

START, END, PATCH = (
    IMAGE_TOKENS[f"<|{name}|>"] for name in ("vision_start", "vision_end", "image_pad")
)
SQUARES = 4


@dataclass(frozen=True)
class Picture:
    """A prompt with a picture.

    Attributes:
        asked: Tokens, one of them for the picture.
        tokens: The same with as many for the picture as the model sees.
        patches: Arguments of transformers' model.
    """

    image: Image.Image
    asked: list[int]
    tokens: list[int]
    patches: dict[str, torch.Tensor]

    def request(self) -> dict[str, Any]:
        """What the engine is asked."""
        return {"prompt_token_ids": self.asked, "multi_modal_data": {"image": self.image}}


def picture(path: Path, text: Sequence[int], seed: int, size: tuple[int, int]) -> Picture:
    """Coloured squares in the middle of ``text``, as the model in ``path`` reads them."""
    draw = random.Random(seed)  # noqa: S311 - test data
    small = Image.new("RGB", (SQUARES, SQUARES))
    for place in range(SQUARES * SQUARES):
        colour = (draw.randrange(256), draw.randrange(256), draw.randrange(256))
        small.putpixel((place % SQUARES, place // SQUARES), colour)
    image = small.resize(size, Image.Resampling.NEAREST)
    processor = transformers.AutoImageProcessor.from_pretrained(path)
    patches = dict(processor(images=image, return_tensors="pt"))
    seen = int(patches["image_grid_thw"].prod()) // processor.merge_size**2
    half = len(text) // 2
    before, after = [*text[:half], START], [END, *text[half:]]
    return Picture(image, [*before, PATCH, *after], [*before, *[PATCH] * seen, *after], patches)


class PictureReference(Reference):
    """A model that sees, and what it sees; without a picture it reads like any other."""

    kind = "AutoModelForImageTextToText"

    def __init__(self, path: Path, dtype: str, device: str, seen: Picture | None = None) -> None:
        super().__init__(path, dtype, device)
        self._seen = {
            name: value.to(device, getattr(torch, dtype) if value.is_floating_point() else None)
            for name, value in (seen.patches if seen else {}).items()
        }

    def arguments(self, tokens: torch.Tensor) -> dict[str, Any]:
        """The picture, and which tokens are its patches."""
        found = super().arguments(tokens)
        if self._seen:
            found |= {**self._seen, "mm_token_type_ids": (tokens == PATCH).int()}
        return found
