"""Makes the conda package of an installed flashinfer-python: leaves out what only compiling at run
time needs, and lets FlashInfer say which module it misses."""

import base64
import csv
import hashlib
import shutil
import sysconfig
from pathlib import Path

# In the folder flashinfer/data: headers.
HEADERS = ("cccl", "cutlass", "include", "spdlog")
# Sources in folders of flashinfer/data/csrc are for compilers alone, 250 MB of them in 0.7, but for
# lists and templates, and what the generators of modules for Hopper copy. Those that lie in csrc
# itself stay: the generators of compiled modules read them too.
READ_SUFFIXES = (".json", ".jinja")
READ_FOLDERS = ("bgmv_moe", "fused_moe/monomoe")
# Upstream's own build leaves these beside its package.
STRAY = ("build_backend.py", "build_utils.py")
# In MissingJITCacheError, and what is there instead.
REFUSAL = """\
        self.spec = spec
        super().__init__(message)
"""
NAMED_REFUSAL = """\
        self.spec = spec
        if spec is not None:  # changed in the conda package, to name the module
            message = (
                f"FlashInfer's module {spec.name} is not in vllm-flashinfer, and "
                "FLASHINFER_DISABLE_JIT is set"
            )
        super().__init__(message)
"""


def remove(site: Path) -> None:
    """Remove what only compiling needs."""
    data = site / "flashinfer" / "data"
    for folder in (data / name for name in HEADERS):
        shutil.rmtree(folder)
    csrc = data / "csrc"
    kept = {file for name in READ_FOLDERS for file in csrc.glob(f"{name}/**/*")}
    for file in csrc.glob("*/**/*"):
        if file.is_file() and file.suffix not in READ_SUFFIXES and file not in kept:
            file.unlink()
    for file in (place / name for place in (site, data) for name in STRAY):
        file.unlink(missing_ok=True)


def name_missing_module(site: Path) -> None:
    """Change the refusal to compile, which does not say what."""
    file = site / "flashinfer" / "jit" / "core.py"
    text = file.read_text(encoding="utf-8")
    if text.count(REFUSAL) != 1:
        raise SystemExit(f"error: {file} refuses to compile in other words: see NAMED_REFUSAL")
    file.write_text(text.replace(REFUSAL, NAMED_REFUSAL), encoding="utf-8")


def record(site: Path) -> None:
    """Make the list of installed files that of the files that are there."""
    (place,) = site.glob("flashinfer_python-*.dist-info/RECORD")
    rows = []
    with place.open(newline="", encoding="utf-8") as stream:
        for name, digest, size in csv.reader(stream):
            if not (site / name).exists():
                continue
            if digest:
                content = (site / name).read_bytes()
                found = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
                rows.append((name, f"sha256={found.decode()}", len(content)))
            else:
                rows.append((name, digest, size))
    with place.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)


def main() -> None:
    site = Path(sysconfig.get_path("purelib"))
    remove(site)
    name_missing_module(site)
    record(site)


if __name__ == "__main__":
    main()
