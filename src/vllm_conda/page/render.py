"""The page as one HTML file that loads nothing, with the record of what it showed beside it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from vllm_conda.page.contents import Contents, changes, dump, load, record_of
from vllm_conda.paths import write_atomic

TEMPLATE = "page.html.j2"


def write_page(contents: Contents, folder: Path, target: Path) -> Contents:
    """Write the page to ``target`` and its record beside it; returns it with what changed.

    Args:
        folder: The channel, which the page links into.

    Raises:
        DiskError: The files cannot be written.
    """
    record = target.with_suffix(".json")
    told = replace(contents, changes=changes(load(record), contents.files))
    way = os.path.relpath(folder.resolve(), target.resolve().parent)
    text = render(told, "" if way == "." else f"{quote(way)}/")
    # The page last: a run that is killed between the two is told the same changes once more.
    write_atomic(record, dump(record_of(told)))
    write_atomic(target, text)
    return told


def render(contents: Contents, way: str = "") -> str:
    """The page as text; ``way`` leads from its folder to the channel."""
    environment = Environment(
        loader=PackageLoader("vllm_conda.page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["size"] = size
    environment.filters["way"] = quote
    return environment.get_template(TEMPLATE).render(page=contents, way=way)


def size(count: int) -> str:
    """Bytes for people: ``262 kB``."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"
