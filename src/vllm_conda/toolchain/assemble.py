"""One staged package through py-rattler-build into a ``.conda`` file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import rattler_build

from vllm_conda.downloads.store import disk_errors, disk_failed
from vllm_conda.errors import BuildFailure
from vllm_conda.toolchain.cpython import PREFIX_TOKEN
from vllm_conda.toolchain.model import Package
from vllm_conda.toolchain.stage import Staged

# zstd level 1: the channel is local and made once, and pytorch alone is 700 MB.
PACKAGE_FORMAT = "conda:1"

_SCRIPT = r"""
cp -al "$STAGE/." "$PREFIX/"
escaped=$(printf '%s' "$PREFIX" | sed 's/[&|\\]/\\&/g')
while IFS= read -r file; do
  sed -i "s|$TOKEN|$escaped|g" "$PREFIX/$file"
done < "$PREFIX_FILES"
"""


def build_string(package: Package) -> str:
    """``external_*``: says that the package repacks what a registry offers."""
    return f"external_{package.build}"


def recipe(
    package: Package,
    version: str,
    staged: Staged,
    prefix_files: Path,
    entry_points: list[str],
) -> dict[str, Any]:
    """The recipe (v1 format) that packs a staged folder."""
    depends = list(package.depends)
    if staged.glibc is not None:
        depends.append(f"__glibc >={staged.glibc[0]}.{staged.glibc[1]},<3.0.a0")
    build: dict[str, Any] = {
        "number": 0,
        "string": build_string(package),
        # Run paths are set while staging; the files must stay as their registry signed them.
        "dynamic_linking": {"binary_relocation": False},
        "script": {
            "env": {
                "STAGE": str(staged.root),
                "TOKEN": PREFIX_TOKEN,
                "PREFIX_FILES": str(prefix_files),
            },
            "content": _SCRIPT,
        },
    }
    if package.noarch:
        build["noarch"] = package.noarch
    if package.down_prioritized:
        build["variant"] = {"down_prioritize_variant": 1}
    if package.noarch == "python" and entry_points:
        build["python"] = {"entry_points": entry_points}
    requirements: dict[str, Any] = {"run": depends}
    if package.constrains:
        requirements["run_constraints"] = list(package.constrains)
    if package.run_exports:
        requirements["run_exports"] = {
            kind: list(rows) for kind, rows in package.run_exports.items()
        }
    made: dict[str, Any] = {
        "package": {"name": package.name, "version": version},
        "build": build,
        "requirements": requirements,
        "about": {"summary": package.summary, "license": package.license},
    }
    if package.tests:
        made["tests"] = [{"script": list(package.tests)}]
    return made


def assemble(
    package: Package,
    version: str,
    subdir: str,
    staged: Staged,
    entry_points: list[str],
    work: Path,
) -> Path:
    """Build the package in the empty folder ``work``; returns the ``.conda`` file.

    Raises:
        BuildFailure: rattler-build refused the recipe or failed.
        DiskError: the disk is full.
    """
    prefix_files = work / "prefix-files"
    with disk_errors(work):
        text = "".join(f"{name}\n" for name in staged.prefix_files)
        prefix_files.write_text(text, encoding="utf-8")
        made = recipe(package, version, staged, prefix_files, entry_points)
        platform = rattler_build.PlatformConfig(target_platform=subdir)
        try:
            # Without a folder it makes one in /tmp and leaves it there.
            stage0 = rattler_build.Stage0Recipe.from_dict(made, recipe_dir=work / "recipe")
            rendered = stage0.render(
                rattler_build.VariantConfig(), rattler_build.RenderConfig(platform=platform)
            )
            result = rendered[0].run_build(
                # The sysroot is noarch, as on conda-forge, and made of links.
                tool_config=rattler_build.ToolConfiguration(allow_symlinks_on_windows=True),
                output_dir=work / "out",
                channels=[],
                package_format=PACKAGE_FORMAT,
                no_include_recipe=True,
            )
        except rattler_build.RattlerBuildError as error:
            if (full := disk_failed(str(error), work)) is not None:
                raise full from error
            raise BuildFailure(f"rattler-build could not pack {package.name}: {error}.") from error
    file = Path(result.packages[0])
    shutil.rmtree(work / "out" / "bld", ignore_errors=True)
    return file
