"""Runs in the installed package: imports, and a module that is not compiled is refused."""

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
    from flashinfer.jit.core import MissingJITCacheError
    from flashinfer.jit.sampling import gen_sampling_module

    try:
        gen_sampling_module().build_and_load()
    except MissingJITCacheError as error:
        print(f"flashinfer {flashinfer.__version__}: {error}")
    else:
        raise SystemExit("nothing is compiled, and the module sampling is loaded")
    assert Path(flashinfer.__file__).parent.joinpath("data", "csrc").is_dir()
