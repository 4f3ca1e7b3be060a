"""Runs in the installed package: imports, and a module that is not compiled is refused by name."""

import os
import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    os.environ |= {
        "FLASHINFER_WORKSPACE_BASE": folder,
        "FLASHINFER_CUDA_ARCH_LIST": "9.0a",
        "FLASHINFER_DISABLE_JIT": "1",
    }
    import flashinfer
    import torch
    from flashinfer.jit import gen_batch_prefill_module
    from flashinfer.jit.core import MissingJITCacheError
    from flashinfer.jit.sampling import gen_sampling_module

    bfloat16, no = torch.bfloat16, (False, False, False)
    attention = (bfloat16, bfloat16, bfloat16, torch.int32, 128, 128, 0, *no)
    for spec in (
        gen_sampling_module(),
        gen_batch_prefill_module("fa2", *attention),
        gen_batch_prefill_module("fa3", *attention),
    ):
        try:
            spec.build_and_load()
        except MissingJITCacheError as error:
            refusal = str(error)
        else:
            raise SystemExit(f"nothing is compiled, and the module {spec.name} is loaded")
        print(f"flashinfer {flashinfer.__version__}: {refusal}")
        assert f"module {spec.name} is not in vllm-flashinfer" in refusal
    assert Path(flashinfer.__file__).parent.joinpath("data", "csrc").is_dir()
