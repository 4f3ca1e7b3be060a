"""The engine's side: its package, its dependencies as conda packages, and its test.

``wheels`` turns pinned wheels into entries of the toolchain's catalog, ``channel`` makes them a
local channel, ``package`` builds ``vllm-engine``, ``trial`` runs models on the solved environment.
"""
