"""A catalog of a few tiny packages, and wheels for it."""

from __future__ import annotations

import base64
import hashlib
import textwrap
import zipfile
from pathlib import Path

CATALOG = textwrap.dedent(
    """
    schema = 1
    platforms = ["linux-64"]

    [pip]
    demo = "demo==1.0"
    extra = "extra==2.5"

    [packages.demo]
    summary = "a pure wheel"
    license = "MIT"
    wheel = "demo"
    noarch = "python"
    depends = ["python"]

    [packages.extra]
    summary = "a wheel with a script and an activation"
    license = "MIT"
    wheel = "extra"
    depends = ["python >={py}"]
    run_exports.weak = ["extra >={version}"]
    links = { "bin/extra-{py}" = "extra" }
    [packages.extra.activation]
    file = "activate-extra"
    set = { EXTRA = "$CONDA_PREFIX/extra" }

    [packages."level"]
    summary = "one package for each level"
    license = "MIT"
    version = "{level}"
    noarch = "generic"
    each.level_build = ["level1", "level3"]
    depends = ["__archspec[version='1.*', build='{archspec}']"]
    """
)


def make_wheels(folder: Path) -> None:
    """Make ``folder``, with the wheels of the catalog."""
    folder.mkdir(parents=True)
    make_wheel(folder, "demo", "1.0", "demo = demo:main")
    make_wheel(folder, "extra", "2.5", "extra = extra:main")


def make_wheel(folder: Path, name: str, version: str, entry_point: str = "") -> Path:
    """Write a valid pure wheel."""
    files = {f"{name}/__init__.py": "def main():\n    print('hello')\n"}
    info = f"{name}-{version}.dist-info"
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    if entry_point:
        files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{entry_point}\n"
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record += f"{path},sha256={digest.decode()},{len(text)}\n"
    files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for place, text in files.items():
            archive.writestr(place, text)
    return wheel
