"""Documents into dataclasses: reading TOML, and where the first mistake is and of what kind."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError, IterableValidationError

from vllm_conda.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

GROUPS = (ClassValidationError, IterableValidationError)


def read_toml(root: Path, name: str) -> dict[str, Any]:
    """Parse the file ``name`` of a checkout.

    Raises:
        ConfigError: It is missing, no UTF-8 or no TOML.
    """
    path = root / name
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist.", "Run in a checkout of the project.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is not UTF-8: {error}.") from None
    except RecursionError:
        raise ConfigError(f"{name} is nested too deep.") from None
    except ValueError as error:  # a syntax error, or a number of more digits than Python reads
        raise ConfigError(f"{name} is not valid TOML: {error}.") from None
    return document


def load_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: It is malformed, no UTF-8 or nested too deep.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


class Mismatch(TypeError):
    """A value that one of our hooks refuses; its text continues the sentence after the place."""


@dataclass(frozen=True)
class Mistake:
    """The first mistake of a document.

    Attributes:
        keys: The place: keys and indices from the top.
        kind: ``unknown`` or ``missing`` key, no ``mapping``, or another ``value``.
        text: The unknown keys, sorted; of a value what is wrong with it.
        known: The keys that there are, for an unknown one.
    """

    keys: tuple[str, ...]
    kind: Literal["unknown", "missing", "mapping", "value"]
    text: tuple[str, ...] = ()
    known: tuple[str, ...] = ()


def first_mistake(error: BaseException, keys: tuple[str, ...] = ()) -> Mistake:
    """The first leaf of a group of exceptions."""
    if isinstance(error, ForbiddenExtraKeysError):
        known = tuple(field.name for field in dataclasses.fields(error.cl))
        return Mistake(keys, "unknown", tuple(sorted(error.extra_fields)), known)
    if isinstance(error, GROUPS):
        # An unknown key often comes with a missing one: the misspelling is the cause.
        extra = [one for one in error.exceptions if isinstance(one, ForbiddenExtraKeysError)]
        if extra:
            return first_mistake(extra[0], keys)
        first = error.exceptions[0]
        return first_mistake(first, keys + _note(first))
    if isinstance(error, KeyError):
        return Mistake(keys, "missing")
    # cattrs asks a value that is no mapping for its items, or looks for a key in it.
    kind: Literal["value", "mapping"] = "value" if isinstance(error, Mismatch) else "mapping"
    return Mistake(keys, kind, (str(error),))


def _note(error: BaseException) -> tuple[str, ...]:
    for note in getattr(error, "__notes__", []):
        name = getattr(note, "name", None)  # AttributeValidationNote
        if name is None:
            name = getattr(note, "index", None)  # IterableValidationNote
        if name is not None:
            return (str(name),)
    return ()
