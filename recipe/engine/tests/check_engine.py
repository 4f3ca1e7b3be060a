"""Runs in the installed package: files as upstream's wheel recorded them, requirements present."""

import base64
import hashlib
import importlib.metadata as metadata
import shutil

from packaging.requirements import Requirement

ENGINE = "vllm"
FEWEST_FILES = 2000

engine = metadata.distribution(ENGINE)
problems = []
checked = 0
for path in engine.files or []:
    if path.parts[0] != ENGINE or path.hash is None:
        continue
    digest = hashlib.new(path.hash.mode, path.locate().read_bytes()).digest()
    if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != path.hash.value:
        problems.append(f"{path} is not what upstream's wheel holds")
    checked += 1
if checked < FEWEST_FILES:
    problems.append(f"only {checked} files of {ENGINE} are recorded")

for row in engine.requires or []:
    requirement = Requirement(row)
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        continue
    if requirement.name == "setuptools":
        continue  # for triton, which needs it on Python 3.12 and newer; pytorch states its own
    if requirement.name == "ninja" and shutil.which("ninja"):
        continue  # conda's package is the program, which has no Python metadata
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        problems.append(f"{row} is not installed")
        continue
    if not requirement.specifier.contains(version, prereleases=True):
        problems.append(f"{row} is required, {version} is installed")

if problems:
    raise SystemExit("\n".join(problems))
print(ENGINE, engine.version, checked, "files as recorded")
