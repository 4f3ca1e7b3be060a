"""Site files of one node type, as text and read."""

from __future__ import annotations

from vllm_conda.site.model import Site, parse_site

GPU = {"cuda": "12.8", "cuda_arch": "[9.0]"}


def site_of(nodes: str, **keys: str) -> Site:
    head = {"schema": "1", "site": "test", **keys}
    lines = [f"{key}: {value}" for key, value in head.items()]
    return parse_site("\n".join([*lines, "nodes:", nodes]), "site.yaml")


def node(**keys: str) -> str:
    values = {"platform": "linux-64", "glibc": "2.34", "archspec": "zen4", **keys}
    return "  a: {" + ", ".join(f"{key}: {value}" for key, value in values.items()) + "}"
