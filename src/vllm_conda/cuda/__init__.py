"""CUDA: the table of architectures, toolkits and kernel families, and what a build compiles.

CMake runs :mod:`vllm_conda.cuda.plan` with whatever Python the build has, so the modules that it
imports need the standard library alone.
"""
