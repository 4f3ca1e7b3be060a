"""The data file ``packages.toml`` as frozen dataclasses: what each package is made of.

Unknown keys are errors. Values may name variables in braces (``{py}``, ``{gcc}``); the
variables come from :mod:`vllm_conda.toolchain.variables`.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.resources import files as resource_files
from pathlib import Path
from typing import Any, Literal

from vllm_conda.errors import ConfigError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DATA_FILE = "packages.toml"
SCHEMA = 1
GLIBC = "glibc:"  # source: a wheel's C library, see Rule
RUN_EXPORT_KINDS = ("weak", "strong", "noarch", "weak_constraints", "strong_constraints")

# `${...}` is shell, `{name}` is ours.
_VARIABLE = re.compile(r"(?<!\$)\{([a-z][a-z0-9_]*)\}")


@dataclass(frozen=True)
class AptSet:
    """Debian packages that are fetched together.

    Attributes:
        suite: Debian suite, or ``host`` for the suite of the machine.
        names: Package names.
        closure: Fetch everything they depend on as well.
        component: Of the archive: ``main``, ``non-free``.
        arch: Debian architecture; empty for that of the channel's platform.
        glibc_below: First C library that what is in them does not work with.
    """

    suite: str
    names: tuple[str, ...]
    closure: bool = False
    component: str = "main"
    glibc_below: str = ""
    arch: str = ""


@dataclass(frozen=True)
class Rule:
    """Copies files of one source tree into a package; the first rule that matches wins.

    Attributes:
        source: ``pip:NAME``, ``apt:SET``, ``host:cpython``, or ``glibc:NAME``: link files and
            headers of the C library that packages are linked for, made of that wheel
            (:mod:`.sysroot`).
        base: Path prefix in the source; it is replaced by ``to``.
        to: Path prefix in the package.
        only: Globs on the source path, ``*`` also crosses ``/``; empty means all.
        drop: Globs that are left out.
        debs: For ``apt``: globs on Debian package names; empty means all of the set.
    """

    source: str
    base: str = ""
    to: str = ""
    only: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    debs: tuple[str, ...] = ()


@dataclass(frozen=True)
class TextFile:
    """A file whose text stands in the data file (wrappers, CMake configs)."""

    path: str
    text: str
    executable: bool = False


@dataclass(frozen=True)
class Rpath:
    """ELF files whose run path becomes ``$ORIGIN``-relative to the folder ``to``.

    Attributes:
        keep: Search the old run path first, as wheels with bundled libraries need.
    """

    only: tuple[str, ...]
    to: str
    keep: bool = False


@dataclass(frozen=True)
class Activation:
    """Environment variables that the package's activation script changes.

    Attributes:
        file: Stem of the script; conda sources them in alphabetical order.
        set: Variables that get this value; the old one is kept for deactivation.
        append: Flags added after what the variable held.
        append_in_build: The same, only inside a package build (``CONDA_BUILD=1``).
    """

    file: str
    set: Mapping[str, str] = field(default_factory=dict)
    append: Mapping[str, str] = field(default_factory=dict)
    append_in_build: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Package:
    """One conda package of the channel, before its variables are filled in.

    Attributes:
        version: Explicit version; empty takes the version of ``version_of``.
        version_of: ``pip:NAME``, ``apt:SET/DEB`` or ``host:cpython``; the default is the wheel.
        build: Suffix of the build string ``external_*``.
        noarch: ``generic`` or ``python``; empty for the channel's platform.
        wheel: Name in ``[pip]`` whose whole content the package holds.
        compile: Ship bytecode, as conda-forge does for platform packages.
        subdir: Platform that the package is for where that is not the channel's: what cross
            compiles runs on the machine that builds.
        stubs: Path -> soname of shared libraries without content (:mod:`.stub`).
        each: Variable -> values: one package for every combination.
        append: Text that is added to the end of a file of ``files``.
        down_prioritized: Not empty: solvers take any other build of the version before this one.
        tests: Shell commands that travel in the package.
    """

    name: str
    summary: str
    license: str
    version: str = ""
    version_of: str = ""
    build: str = "0"
    noarch: Literal["", "generic", "python"] = ""
    wheel: str = ""
    compile: bool = False
    subdir: str = ""
    stubs: Mapping[str, str] = field(default_factory=dict)
    each: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    files: tuple[Rule, ...] = ()
    write: tuple[TextFile, ...] = ()
    append: tuple[TextFile, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    rpath: tuple[Rpath, ...] = ()
    activation: Activation | None = None
    depends: tuple[str, ...] = ()
    constrains: tuple[str, ...] = ()
    run_exports: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    down_prioritized: str = ""
    tests: tuple[str, ...] = ()

    def sources(self) -> tuple[str, ...]:
        """Source names that the package reads, without duplicates, in order."""
        named = [rule.source for rule in self.files]
        named += [f"pip:{name.removeprefix(GLIBC)}" for name in named if name.startswith(GLIBC)]
        if self.wheel:
            named.append(f"pip:{self.wheel}")
        if self.version_of:
            named.append(self.version_of.split("/")[0])
        return tuple(dict.fromkeys(named))

    def version_source(self) -> str:
        """Where an unset version comes from."""
        return self.version_of or (f"pip:{self.wheel}" if self.wheel else "")

    def instances(self, lists: Mapping[str, Sequence[str]] | None = None) -> list[dict[str, str]]:
        """Variables of every package that this entry stands for.

        Args:
            lists: What stands for several values, by ``{name}``.
        """
        names, known = list(self.each), lists or {}
        values = (
            [one for value in self.each[name] for one in known.get(value, (value,))]
            for name in names
        )
        combinations = itertools.product(*values)
        return [dict(zip(names, values, strict=True)) for values in combinations]


@dataclass(frozen=True)
class Catalog:
    """The whole data file.

    Attributes:
        platforms: Platforms (conda subdirs) the catalog can be made for.
        pip: Name -> requirements, of which exactly one applies to the running Python.
        apt: Name -> set of Debian packages.
        sha256: Name in ``pip`` -> hash that the wheel must have.
    """

    platforms: tuple[str, ...]
    pip: Mapping[str, tuple[str, ...]]
    apt: Mapping[str, AptSet]
    packages: tuple[Package, ...]
    sha256: Mapping[str, str] = field(default_factory=dict)


def substitute(text: str, variables: Mapping[str, str], where: str) -> str:
    """Fill ``{name}`` in; raises ConfigError for a name that does not exist."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in variables:
            near = did_you_mean(name, variables)
            raise ConfigError(f"{DATA_FILE}: {where} names the unknown variable {{{name}}}.{near}")
        return variables[name]

    return _VARIABLE.sub(value, text)


def resolve(value: Any, variables: Mapping[str, str], where: str) -> Any:
    """A copy of a (nested) dataclass, mapping, tuple or string with its variables filled in."""
    if isinstance(value, str):
        return substitute(value, variables, where)
    if isinstance(value, tuple):
        return tuple(resolve(item, variables, where) for item in value)
    if isinstance(value, Mapping):
        return {
            substitute(key, variables, where): resolve(item, variables, where)
            for key, item in value.items()
        }
    if hasattr(value, "__dataclass_fields__"):
        new = {f.name: resolve(getattr(value, f.name), variables, where) for f in fields(value)}
        return type(value)(**new)
    return value


def canonical(value: Any) -> str:
    """JSON text of a dataclass tree that is equal for equal content (used in cache keys)."""

    def plain(item: Any) -> Any:
        if hasattr(item, "__dataclass_fields__"):
            return {f.name: plain(getattr(item, f.name)) for f in fields(item)}
        if isinstance(item, Mapping):
            return {key: plain(item[key]) for key in sorted(item)}
        if isinstance(item, tuple | list):
            return [plain(one) for one in item]
        return item

    return json.dumps(plain(value), sort_keys=True)


def _checked(kind: type, data: Any, where: str, **fixed: Any) -> Any:
    """Build dataclass ``kind`` from a TOML table; lists become tuples."""
    if not isinstance(data, dict):
        raise ConfigError(f"{DATA_FILE}: {where} must be a table.")
    known = {f.name for f in fields(kind)} - set(fixed)
    for key in data:
        if key not in known:
            near = did_you_mean(key, known)
            raise ConfigError(f"{DATA_FILE}: {where} has the unknown key {key!r}.{near}")
    values = {key: _frozen(item) for key, item in data.items()}
    try:
        return kind(**values, **fixed)
    except TypeError as error:
        raise ConfigError(f"{DATA_FILE}: {where}: {error}.") from error


def _frozen(item: Any) -> Any:
    if isinstance(item, list):
        return tuple(_frozen(one) for one in item)
    if isinstance(item, dict):
        return {key: _frozen(one) for key, one in item.items()}
    return item


def _package(name: str, table: dict[str, Any]) -> Package:
    where = f"[packages.{name}]"
    nested: dict[str, Any] = {}
    for key, kind in (
        ("files", Rule), ("write", TextFile), ("append", TextFile), ("rpath", Rpath),
    ):  # fmt: skip
        rows = table.pop(key, [])
        nested[key] = tuple(_checked(kind, row, f"{where} {key}") for row in rows)
    if "activation" in table:
        nested["activation"] = _checked(Activation, table.pop("activation"), f"{where} activation")
    package: Package = _checked(Package, table, where, name=name, **nested)
    for kind_name in package.run_exports:
        if kind_name not in RUN_EXPORT_KINDS:
            near = did_you_mean(kind_name, RUN_EXPORT_KINDS)
            raise ConfigError(
                f"{DATA_FILE}: {where} run_exports has the unknown kind {kind_name!r}.{near}"
            )
    if package.noarch not in ("", "generic", "python"):
        raise ConfigError(f"{DATA_FILE}: {where} noarch is {package.noarch!r}.")
    if not package.version and not package.version_source():
        raise ConfigError(f"{DATA_FILE}: {where} needs version, version_of or wheel.")
    return package


def parse(text: str) -> Catalog:
    """Read the catalog from TOML text.

    Raises:
        ConfigError: bad TOML, an unknown key, or a source that is not defined.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{DATA_FILE} is not valid TOML: {error}.") from error
    return parse_data(data)


def parse_data(data: dict[str, Any]) -> Catalog:
    """Read the catalog from parsed TOML; errors as :func:`parse`."""
    if data.pop("schema", None) != SCHEMA:
        raise ConfigError(f"{DATA_FILE}: schema must be {SCHEMA}.")
    tables = ("platforms", "pip", "sha256", "apt", "packages")
    for key in data:
        if key not in tables:
            raise ConfigError(f"{DATA_FILE}: the unknown key {key!r}.{did_you_mean(key, tables)}")
    pip = {
        name: (rows,) if isinstance(rows, str) else tuple(rows)
        for name, rows in data.get("pip", {}).items()
    }
    apt = {
        name: _checked(AptSet, table, f"[apt.{name}]")
        for name, table in data.get("apt", {}).items()
    }
    packages = tuple(_package(name, table) for name, table in data.get("packages", {}).items())
    hashes = dict(data.get("sha256", {}))
    for name in hashes:
        if name not in pip:
            near = did_you_mean(name, pip)
            raise ConfigError(f"{DATA_FILE}: [sha256] {name} is not a name in [pip].{near}")
    defined = {f"{kind}{name}" for kind in ("pip:", GLIBC) for name in pip}
    defined |= {f"apt:{name}" for name in apt} | {"host:cpython"}
    for package in packages:
        for source in package.sources():
            if source not in defined:
                raise ConfigError(
                    f"{DATA_FILE}: [packages.{package.name}] reads {source!r}, which is not "
                    f"defined.{did_you_mean(source, defined)}"
                )
    return Catalog(tuple(data.get("platforms", ())), pip, apt, packages, hashes)


def catalog_text() -> str:
    """The text of the data file shipped with the toolkit."""
    return (resource_files(__package__) / DATA_FILE).read_text(encoding="utf-8")


def load(path: Path | None = None) -> Catalog:
    """The shipped catalog, or the one in ``path``."""
    return parse(path.read_text(encoding="utf-8") if path else catalog_text())
