"""What a CUDA build compiles: the table of architectures, toolkits and families, and one plan.

CMake runs it (``python -m vllm_cuda_plan``) with whatever Python the build has, so it needs the
standard library alone and imports no other package of this repository. The toolkit imports it.
"""
