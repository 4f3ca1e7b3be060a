"""Tests of the kernels: ``cpu`` and ``cuda`` by family, ``common`` what both use."""
