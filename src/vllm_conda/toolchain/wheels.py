"""A channel of pinned wheels, whose metadata says what they depend on."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.markers import default_environment
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.specifiers import Specifier
from packaging.utils import canonicalize_name, parse_wheel_filename

from vllm_conda.archives import DAMAGED, MALFORMED
from vllm_conda.downloads import fetch
from vllm_conda.downloads.store import Store
from vllm_conda.errors import ConfigError, IntegrityError, did_you_mean
from vllm_conda.paths import cache_root
from vllm_conda.progress import Reporter
from vllm_conda.toolchain import host as host_module
from vllm_conda.toolchain import model
from vllm_conda.toolchain.channel import Channel
from vllm_conda.toolchain.host import Host
from vllm_conda.toolchain.making import make_packages, once
from vllm_conda.toolchain.model import Catalog, Package
from vllm_conda.toolchain.pip_client import PipClient

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# The name that the data has in messages.
DATA_FILE = "wheels.toml"
SCHEMA = 1
_TABLES = ("names", "extras", "without", "pins")
_UNSTATED_LICENSE = "LicenseRef-unstated"


@dataclass(frozen=True)
class Wheels:
    """The data file.

    Attributes:
        pins: Normalised name -> requirements, of which exactly one applies to the running Python.
        names: Normalised name -> conda-forge's name, where they differ.
        extras: Normalised name -> extras whose requirements the package always has.
        without: Normalised name -> requirements left out -> reason.
    """

    pins: Mapping[str, tuple[str, ...]]
    names: Mapping[str, str]
    extras: Mapping[str, tuple[str, ...]]
    without: Mapping[str, Mapping[str, str]]

    def conda_name(self, name: str) -> str:
        """conda-forge's name of a registry's distribution."""
        normalised = canonicalize_name(name)
        return self.names.get(normalised, normalised)


def parse(text: str) -> Wheels:
    """Read the data file from TOML text.

    Raises:
        ConfigError: Bad TOML, an unknown key, or an entry about a wheel that is not pinned.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{DATA_FILE} is not valid TOML: {error}.") from error
    if data.pop("schema", None) != SCHEMA:
        raise ConfigError(f"{DATA_FILE}: schema must be {SCHEMA}.")
    _known(data, _TABLES, "the file")
    pins_table = data.get("pins", {})
    _known(pins_table, ("wheels",), "[pins]")
    pins: dict[str, tuple[str, ...]] = {}
    for row in pins_table.get("wheels", ()):
        name: str = canonicalize_name(Requirement(row).name)
        pins[name] = (*pins.get(name, ()), row)
    wheels = Wheels(
        pins,
        data.get("names", {}),
        {name: tuple(rows) for name, rows in data.get("extras", {}).items()},
        data.get("without", {}),
    )
    for table in (wheels.extras, wheels.without):
        for name in table:
            if name not in pins:
                raise ConfigError(
                    f"{DATA_FILE}: {name} is not pinned.{did_you_mean(name, pins)}",
                    "Names are normalised: lower case, with '-'.",
                )
    return wheels


def _known(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise ConfigError(
                f"{DATA_FILE}: {where} has the unknown key {key!r}.{did_you_mean(key, known)}"
            )


def read_metadata(wheel: Path) -> Metadata:
    """The core metadata of a wheel.

    Raises:
        IntegrityError: The file is no wheel.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [
                name
                for name in archive.namelist()
                if name.endswith(".dist-info/METADATA") and name.count("/") == 1
            ]
            return Metadata.from_email(archive.read(names[0]), validate=False)
    except (*DAMAGED, *MALFORMED) as error:
        raise IntegrityError(f"{wheel.name} is not a wheel.", "Remove it and try again.") from error


def spec(requirement: Requirement, wheels: Wheels) -> str:
    """A requirement as a conda match spec; its marker and extras are not looked at."""
    name = wheels.conda_name(requirement.name)
    bounds = ",".join(sorted(_bound(one) for one in requirement.specifier))
    return f"{name} {bounds}".rstrip()


def _bound(specifier: Specifier) -> str:
    if specifier.operator == "==" and specifier.version.endswith(".*"):
        return specifier.version
    operator = "==" if specifier.operator == "===" else specifier.operator
    return f"{operator}{specifier.version}"


def requirements(rows: Iterable[Requirement], extras: Iterable[str] = ()) -> Iterator[Requirement]:
    """Those of ``rows`` that hold on this machine with these extras."""
    host = {key: str(value) for key, value in default_environment().items()}
    environments = [{**host, "extra": extra} for extra in ("", *extras)]
    for row in rows:
        if row.marker is None or any(row.marker.evaluate(one) for one in environments):
            yield row


def package(name: str, wheel: Path, wheels: Wheels, py: str, offered: Iterable[str]) -> Package:
    """The catalog entry of one wheel.

    Args:
        name: Its normalised name.
        py: ``major.minor`` of the running CPython.
        offered: conda names that the other wheels and the toolchain channel hold.

    Raises:
        ConfigError: A requirement that nothing offers and ``[without]`` does not name.
    """
    metadata = read_metadata(wheel)
    offered = set(offered)
    without = wheels.without.get(name, {})
    depends = set()
    for row in requirements(metadata.requires_dist or (), wheels.extras.get(name, ())):
        if canonicalize_name(row.name) in without or canonicalize_name(row.name) == name:
            continue
        conda_name = wheels.conda_name(row.name)
        if conda_name not in offered:
            raise ConfigError(
                f"{DATA_FILE}: {name} requires {row}, but no wheel is pinned for {conda_name}.",
                f"Pin it under [pins], or say under [without.{name}] why it is not needed.",
            )
        depends.add(spec(row, wheels))
    pure = _is_pure(wheel)
    python = f"python {metadata.requires_python or ''}".rstrip()
    return Package(
        name=wheels.conda_name(name),
        summary=(metadata.summary or name).strip(),
        license=_license(metadata),
        wheel=name,
        noarch="python" if pure else "",
        build="0" if pure else f"py{py.replace('.', '')}_0",
        depends=(*([python] if pure else _python_abi(py)), *sorted(depends)),
    )


def _is_pure(wheel: Path) -> bool:
    _, _, _, tags = parse_wheel_filename(wheel.name)
    return all(tag.platform == "any" for tag in tags)


def _python_abi(py: str) -> tuple[str, ...]:
    major, minor = py.split(".")
    return (
        "libgcc",
        "libstdcxx",
        f"python >={py},<{major}.{int(minor) + 1}.0a0",
        f"python_abi {py}.* *_cp{major}{minor}",
    )


def _license(metadata: Metadata) -> str:
    """The SPDX expression that the metadata states, in its own field or in the older one."""
    if metadata.license_expression:
        return metadata.license_expression
    try:
        return canonicalize_license_expression(metadata.license or "")
    except InvalidLicenseExpression:
        return _UNSTATED_LICENSE


def ensure_wheels(
    platform: str, text: str, title: str, *, reporter: Reporter, cache: Path | None = None
) -> Channel:
    """Make the channel of the wheels that ``text`` pins, or return the one that is there.

    It holds what the toolchain channel does not; the two are used together.

    Args:
        text: TOML, as :func:`parse` reads it.
        title: What the channel is, in the line that says that it is done.

    Raises:
        VllmError: As the toolchain's ``ensure``.
    """
    host = host_module.detect(platform)
    code = Path(__file__).read_text(encoding="utf-8")

    def make(store: Store, request: Path) -> Channel:
        return _make(store, host, reporter, request, parse(text), title)

    inputs = "\n".join((text, model.catalog_text(), code))
    return once(host, inputs, make, reporter=reporter, cache=cache)


def pinned_wheel(
    requirement: str, sha256: str, where: str, platform: str, reporter: Reporter
) -> Path:
    """One wheel by name, of the hash that ``where`` pins; a cached one of another is not taken.

    Raises:
        NetworkError: pip could not fetch it.
        IntegrityError: It is not the pinned file.
    """
    store = Store(cache_root())
    client = PipClient(store, host_module.detect(platform), reporter)
    found = client.cached(requirement)
    if found is None or found.sha256 != sha256 or not fetch.intact(found):
        with store.locked(reporter):
            found = client.fetch([requirement])[requirement]
    fetch.hold_to(store, found, f"The wheel {requirement}", sha256, where)
    return found.path


def _make(
    store: Store, host: Host, reporter: Reporter, request: Path, wheels: Wheels, title: str
) -> Channel:
    from vllm_conda.toolchain.maker import Maker  # late, as in making.py

    # A wheel's dependencies are recorded in the wheel, so all wheels are fetched before the catalog
    # of their packages is written.
    bare = tuple(Package(name=name, summary=name, license="", wheel=name) for name in wheels.pins)
    first = Maker(store, host, reporter, _catalog(host, wheels, bare))
    first.fetch()
    offered = {wheels.conda_name(name) for name in wheels.pins}
    offered |= {entry.name for entry in model.load().packages}
    packages = tuple(
        package(name, first.sources[f"pip:{name}"][0].path, wheels, host.py, offered)
        for name in wheels.pins
    )
    return make_packages(store, host, reporter, _catalog(host, wheels, packages), request, title)


def _catalog(host: Host, wheels: Wheels, packages: tuple[Package, ...]) -> Catalog:
    return Catalog((host.platform,), wheels.pins, {}, packages)
