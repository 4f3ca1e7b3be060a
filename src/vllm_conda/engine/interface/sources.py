"""The files of a release, from its source distribution or an unpacked folder."""

from __future__ import annotations

import ast
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vllm_conda.archives import DAMAGED
from vllm_conda.errors import ConfigError, reason

NAME = re.compile(r"vllm-(\d+\.\d+\.\d+(?:[._]?(?:rc|post|dev)\d+)?)(?:\.tar\.gz)?")
# What is read; the rest of an archive of 40 MB is passed over.
_WANTED = re.compile(r"csrc/.*\.(cpp|cu|cc)|vllm/.*\.py|requirements/.*\.txt|PKG-INFO")


@dataclass(frozen=True)
class Sources:
    """A release: its version and the text of the files that facts are read from, by path."""

    version: str
    texts: dict[str, str] = field(repr=False)

    def under(self, folder: str, *suffixes: str) -> Iterator[tuple[PurePosixPath, str]]:
        """Path and text of each file under ``folder`` that ends with one of ``suffixes``."""
        for name, text in self.texts.items():
            if name.startswith(f"{folder}/") and name.endswith(suffixes):
                yield PurePosixPath(name), text

    def has(self, path: str) -> bool:
        """Whether the release has that Python file, or a package of that name."""
        return path in self.texts or f"{path.removesuffix('.py')}/__init__.py" in self.texts


def tree(path: str | PurePosixPath, text: str) -> ast.Module:
    """A Python file's syntax tree.

    Raises:
        ConfigError: It is not Python.
    """
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"The release's {path} is not valid Python: {error}.") from None


def read(path: Path) -> Sources:
    """Read ``vllm-VERSION.tar.gz`` or the folder that it unpacks to.

    Raises:
        ConfigError: It is not there, is no such archive, or holds no sources of the engine.
    """
    match = NAME.fullmatch(path.resolve().name)
    if match is None:
        raise ConfigError(
            f"{path} is not named vllm-VERSION.tar.gz, so its version is unknown.",
            "Name the file as the registry does.",
        )
    try:
        texts = dict(_folder(path) if path.is_dir() else _archive(path))
    except DAMAGED as error:
        raise ConfigError(
            f"{path} cannot be read as a source distribution: {reason(error)}."
        ) from None
    if not any(name.startswith("csrc/") for name in texts):
        raise ConfigError(
            f"{path} holds no csrc/, where the engine's ops are registered.",
            "Give the source distribution, not a wheel.",
        )
    return Sources(match[1], texts)


def _archive(path: Path) -> Iterator[tuple[str, str]]:
    with tarfile.open(path) as archive:
        for member in archive:
            _, _, name = member.name.partition("/")
            if member.isfile() and _WANTED.fullmatch(name):
                stream = archive.extractfile(member)
                if stream is not None:
                    yield name, stream.read().decode()


def _folder(path: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if _WANTED.fullmatch(name) and file.is_file():
            yield name, file.read_text(encoding="utf-8")
