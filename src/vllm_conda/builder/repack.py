"""A finished package written again so that its bytes depend on its content alone.

rattler-build records the time of the build, in the package and on every file, and where the
build's folders were. Here the time is that of its sources (commit.py), the folders have one
name on every machine, files come in order and belong to nobody.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
import time
import zipfile
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
import zstandard
from rattler.package_streaming import extract

from vllm_conda.audit.leaks import NEUTRAL_FOLDER
from vllm_conda.builder.commit import Origin
from vllm_conda.paths import disk_errors

LEVEL = 19
METADATA = '{"conda_pkg_format_version": 2}'
_ZIP_START = 315532800  # 1980: older dates have no form in a ZIP archive
_PADDING = re.compile(
    r"host_env(?:_placehold|_placehol|_placeho|_placeh|_place|_plac|_pla|_pl|_p|_)+"
)
_TIME = re.compile(r"^( *timestamp: ).*$", re.MULTILINE)


def repack(
    package: Path,
    origin: Origin,
    folders: Iterable[Path],
    scratch: Path,
    amend: Callable[[Path], None] | None = None,
) -> None:
    """Replace ``package`` by its reproducible form.

    Args:
        origin: Its revision is recorded where conda-forge's builds record theirs.
        folders: What the machine calls the folders of the build.
        scratch: Folder for the unpacked content; removed again.
        amend: Adds to the unpacked content.
    """
    epoch = origin.epoch
    with disk_errors("the package", scratch):
        shutil.rmtree(scratch, ignore_errors=True)
        extract(package, scratch)
        index = scratch / "info" / "index.json"
        record = json.loads(index.read_text(encoding="utf-8"))
        record["timestamp"] = epoch * 1000
        for key in ("depends", "constrains"):
            if key in record:
                record[key] = sorted(record[key])
        index.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        used: set[str] | None = None
        rendered = scratch / "info" / "recipe" / "rendered_recipe.yaml"
        if rendered.is_file():
            document = yaml.safe_load(rendered.read_text(encoding="utf-8"))
            _forget_machine(document)
            used = set(_channels(document))
            text = yaml.safe_dump(_in_order(document), sort_keys=False, width=1 << 20)
            rendered.write_text(_anonymous(text, epoch, folders), encoding="utf-8")
        for left in (scratch / "info" / "recipe").glob("*"):
            if left.name not in _OF_THE_RECIPE:  # such as the tests, which are in info/tests
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        about = scratch / "info" / "about.json"
        if about.is_file():
            facts = json.loads(about.read_text(encoding="utf-8"))
            if used is not None:
                facts["channels"] = _of_use(facts.get("channels", ()), used)
            if origin.revision:
                facts["extra"] = {**facts.get("extra", {}), "sha": origin.revision}
            text = json.dumps(facts, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
            about.write_text(_anonymous(text, epoch, folders), encoding="utf-8")
        if amend:
            amend(scratch)
        draft = package.with_suffix(".draft")
        _write(scratch, package.stem, draft, epoch)
        draft.replace(package)
        shutil.rmtree(scratch)


# rattler-build takes the whole folder along, with other packages' recipes.
_OF_THE_RECIPE = ("recipe.yaml", "rendered_recipe.yaml", "variant_config.yaml", "build.sh")

# For a library that several packages hold, it names an arbitrary one of them.
_CHANCE = "staging_library_name_map"


def _forget_machine(document: dict[str, Any]) -> None:
    """Take out what the building machine and the job decide, and the package does not depend on.

    These are kernel, C library and CPU of the machine, and the names of the job's other packages:
    vllm-core is one package, whichever job and machine make it.
    """
    document.pop(_CHANCE, None)
    settings = document.get("build_configuration", {})
    for platform in ("host_platform", "build_platform"):
        settings.get(platform, {}).pop("virtual_packages", None)
    # A job of CUDA has one channel more, which vllm-core takes nothing from.
    settings["channels"] = _of_use(settings.get("channels", ()), set(_channels(document)))
    recipe = document.get("recipe", {})
    own = recipe.get("package", {}).get("name")
    named = json.dumps(recipe.get("requirements", {}), default=str)
    others = settings.get("subpackages", {})
    settings["subpackages"] = {
        name: one for name, one in others.items() if name == own or f'"{name}"' in named
    }


def _channels(tree: Any) -> Iterator[str]:
    """Addresses of the channels that packages of the build's environments came from."""
    if isinstance(tree, dict):
        if isinstance(tree.get("channel"), str):
            yield tree["channel"].rstrip("/")
        tree = list(tree.values())
    for item in tree if isinstance(tree, list) else ():
        yield from _channels(item)


def _of_use(channels: Iterable[str], used: Container[str]) -> list[str]:
    """Without folders that nothing was taken from."""
    return [one for one in channels if not one.startswith("file:") or one.rstrip("/") in used]


def _in_order(value: Any, inside: bool = False) -> Any:
    """Lists of requirements sorted: rattler-build's are in the order of a hash table."""
    if isinstance(value, dict):
        return {
            key: _in_order(item, inside or key.startswith("finalized_"))
            for key, item in value.items()
        }
    if isinstance(value, list):
        items = [_in_order(item, inside) for item in value]
        return sorted(items, key=lambda item: json.dumps(item, default=str)) if inside else items
    return value


def _anonymous(text: str, epoch: int, folders: Iterable[Path]) -> str:
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
    text = _TIME.sub(rf"\g<1>{when}", _PADDING.sub("host_env", text))
    for folder in folders:
        text = text.replace(str(folder), NEUTRAL_FOLDER)
    return text


def _write(content: Path, stem: str, target: Path, epoch: int) -> None:
    files = sorted(
        path.relative_to(content).as_posix()
        for path in content.rglob("*")
        if path.is_symlink() or not path.is_dir()
    )
    info = [name for name in files if name.startswith("info/")]
    # Clients that read the archive as a stream want the record first.
    info.sort(key=lambda name: (name != "info/index.json", name))
    date = time.gmtime(max(epoch, _ZIP_START))[:6]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, data in (
            ("metadata.json", METADATA.encode()),
            (f"pkg-{stem}.tar.zst", _tar(content, [n for n in files if n not in set(info)], epoch)),
            (f"info-{stem}.tar.zst", _tar(content, info, epoch)),
        ):
            entry = zipfile.ZipInfo(name, date)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)


def _tar(content: Path, names: Iterable[str], epoch: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in names:
            path = content / name
            entry = tarfile.TarInfo(name)
            entry.mtime = epoch
            if path.is_symlink():
                entry.type, entry.linkname, entry.mode = (
                    tarfile.SYMTYPE,
                    str(path.readlink()),
                    0o777,
                )
                archive.addfile(entry)
                continue
            status = path.stat()
            # The umask of the build machine must not enter the package.
            entry.mode = 0o755 if status.st_mode & 0o100 else 0o644
            entry.size = status.st_size
            with path.open("rb") as file:
                archive.addfile(entry, file)
    return zstandard.ZstdCompressor(level=LEVEL, write_content_size=True).compress(
        buffer.getvalue()
    )
