"""Solves for a described machine with py-rattler alone: no code of the project is used.

    python solve_profile.py --archspec haswell --channel file:///... --spec vllm-kernels-cpu

Prints the chosen packages as JSON and exits 0, or the solver's reason and exits 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys

from rattler import Channel, GenericVirtualPackage, PackageName, Version, solve
from rattler.exceptions import SolverError
from rattler.package.build_string import BuildString


def virtual(name: str, version: str, build: str = "0") -> GenericVirtualPackage:
    return GenericVirtualPackage(PackageName(name), Version(version), BuildString(build))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--archspec", required=True)
    parser.add_argument("--glibc", default="2.36")
    parser.add_argument("--channel", action="append", required=True)
    parser.add_argument("--spec", action="append", required=True)
    parser.add_argument("--virtual", action="append", default=[], metavar="NAME=VERSION")
    options = parser.parse_args()
    machine = [
        virtual("__linux", "6.1"),
        virtual("__unix", "0"),
        virtual("__glibc", options.glibc),
        virtual("__archspec", "1", options.archspec),
    ]
    for row in options.virtual:
        name, _, version = row.partition("=")
        machine.append(virtual(name, version))
    try:
        records = asyncio.run(
            solve(
                [Channel(address) for address in options.channel],
                options.spec,
                platforms=["linux-64", "noarch"],
                virtual_packages=machine,
            )
        )
    except SolverError as error:
        print(error)
        return 1
    chosen = {
        record.name.normalized: {
            "version": str(record.version),
            "build": str(record.build),
            "build_number": record.build_number,
            "depends": [str(spec) for spec in record.depends],
        }
        for record in records
    }
    json.dump(chosen, sys.stdout)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # py-rattler's threads can abort Python's finalization, which is not what is tested.
    os._exit(code)
