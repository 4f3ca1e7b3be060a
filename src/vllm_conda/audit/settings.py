"""Typed model of ``audit.toml``: size budgets and findings that are allowed, with their reasons."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from vllm_conda.audit.finding import Finding
from vllm_conda.errors import ConfigError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SETTINGS_FILE = "audit.toml"


@dataclass(frozen=True)
class Budget:
    """Largest size of a package's archive and of its installed files, in MiB."""

    archive_mib: float
    installed_mib: float


@dataclass(frozen=True)
class Allow:
    """Findings that do not count; the patterns are those of a shell, ``*`` for any."""

    check: str
    reason: str
    package: str = "*"
    file: str = "*"
    message: str = "*"

    def matches(self, package: str, finding: Finding) -> bool:
        return (
            self.check == finding.check
            and fnmatchcase(package, self.package)
            and fnmatchcase(finding.file, self.file)
            and fnmatchcase(finding.message, self.message)
        )


@dataclass(frozen=True)
class Settings:
    budgets: Mapping[str, Budget] = field(default_factory=dict)
    allow: tuple[Allow, ...] = ()

    def budget(self, package: str, file: str) -> tuple[str, Budget] | None:
        """A package's budget and its name: that of a pattern of file names before the package's."""
        for name, budget in self.budgets.items():
            if "*" in name and fnmatchcase(file, name):
                return name, budget
        return (package, self.budgets[package]) if package in self.budgets else None


def load_settings(path: Path, checks: tuple[str, ...]) -> Settings:
    """Read ``audit.toml``.

    Raises:
        ConfigError: Not there, not TOML, an unknown or missing key, a wrong type, an unknown check,
            an empty reason.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as reason:
        raise ConfigError(f"{path} cannot be read: {reason.strerror}.") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as reason:
        raise ConfigError(f"{path.name} is not valid TOML: {reason}.") from None
    _known(path.name, data, ("budgets", "allow"))
    budgets = _table(f"{path.name}: budgets", data.get("budgets", {}))
    entries = data.get("allow", [])
    if type(entries) is not list:
        raise ConfigError(f"{path.name}: allow is no array of tables.", "Write [[allow]].")
    return Settings(
        {name: _budget(f"{path.name}: [budgets.{name}]", one) for name, one in budgets.items()},
        tuple(
            _allow(f"{path.name}: [[allow]] number {index}", one, checks)
            for index, one in enumerate(entries, 1)
        ),
    )


def _table(place: str, value: object) -> dict[str, Any]:
    if type(value) is not dict:
        raise ConfigError(f"{place} is no table.")
    return value


def _known(place: str, table: dict[str, Any], names: tuple[str, ...]) -> None:
    for key in sorted(table.keys() - set(names)):
        raise ConfigError(
            f"{place}: unknown key {key!r}.{did_you_mean(key, names)}",
            f"Known keys: {', '.join(names)}.",
        )


def _budget(place: str, value: object) -> Budget:
    table = _table(place, value)
    names = tuple(one.name for one in fields(Budget))
    _known(place, table, names)
    for name in names:
        if type(table.get(name)) not in (int, float) or table[name] <= 0:
            raise ConfigError(f"{place}: {name} has to be a size in MiB above zero.")
    return Budget(**table)


def _allow(place: str, value: object, checks: tuple[str, ...]) -> Allow:
    table = _table(place, value)
    names = tuple(one.name for one in fields(Allow))
    _known(place, table, names)
    for key in names:
        if key in table and type(table[key]) is not str:
            raise ConfigError(f"{place}: {key} has to be text.")
    if table.get("check") not in checks:
        check = str(table.get("check", ""))
        raise ConfigError(
            f"{place}: {check!r} is no check.{did_you_mean(check, checks)}",
            f"Checks: {', '.join(checks)}.",
        )
    if not table.get("reason", "").strip():
        raise ConfigError(f"{place} gives no reason.", 'Say why: reason = "..."')
    return Allow(**table)
