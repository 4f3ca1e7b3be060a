"""Removes from an installed flashinfer-python what only compiling at run time needs."""

import csv
import shutil
import sysconfig
from pathlib import Path

# In the folder flashinfer/data. The sources (`csrc`) stay: FlashInfer's generators read templates
# there, of compiled modules too.
HEADERS = ("cccl", "cutlass", "include", "spdlog")
# Upstream's own build leaves these beside its package.
STRAY = ("build_backend.py", "build_utils.py")

site = Path(sysconfig.get_path("purelib"))
data = site / "flashinfer" / "data"
for folder in (data / name for name in HEADERS):
    shutil.rmtree(folder)
for file in (place / name for place in (site, data) for name in STRAY):
    file.unlink(missing_ok=True)
(record,) = site.glob("flashinfer_python-*.dist-info/RECORD")
with record.open(newline="", encoding="utf-8") as stream:
    rows = [row for row in csv.reader(stream) if (site / row[0]).exists()]
with record.open("w", newline="", encoding="utf-8") as stream:
    csv.writer(stream, lineterminator="\n").writerows(rows)
