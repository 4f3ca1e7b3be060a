"""Kernels of the engine that stand on ops which nothing here serves: it must not choose them.

The engine asks a class of kernels whether it suits the GPU and the layer. Whether its ops exist it
would find out while the weights are loaded.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from vllm_kernels_plugin import needs

VARIABLE = "VLLM_DISABLED_KERNELS"

# For linear layers on a GPU, of every engine in the table: the op without which one cannot run.
LINEAR: Mapping[str, str] = {
    "AllSparkLinearKernel": "allspark_w8a16_gemm",
    "CutlassFP8ScaledMMLinearKernel": "cutlass_scaled_mm",
    "CutlassFp8BlockScaledMMKernel": "cutlass_scaled_mm",
    "CutlassInt8ScaledMMLinearKernel": "cutlass_scaled_mm",
    "CutlassNvFp4LinearKernel": "cutlass_scaled_fp4_mm",
    "CutlassW4A8LinearKernel": "cutlass_w4a8_mm",
    "ExllamaLinearKernel": "gptq_gemm",
    "FbgemmNvFp4LinearKernel": "scaled_fp4_quant",
    "FlashInferB12xNvFp4LinearKernel": "scaled_fp4_quant",
    "FlashInferCudnnNvFp4LinearKernel": "scaled_fp4_quant",
    "FlashInferCuteDslNvFp4LinearKernel": "scaled_fp4_quant",
    "FlashInferCutlassNvFp4LinearKernel": "scaled_fp4_quant",
    "FlashInferTrtllmNvFp4LinearKernel": "scaled_fp4_quant",
    "MacheteLinearKernel": "machete_mm",
    "MarlinFP8ScaledMMLinearKernel": "marlin_gemm",
    "MarlinLinearKernel": "marlin_gemm",
    "MarlinMxFp4LinearKernel": "marlin_gemm",
    "MarlinMxfp8LinearKernel": "marlin_gemm",
    "MarlinNvFp4LinearKernel": "marlin_gemm",
    "TorchNvFp4LinearKernel": "scaled_fp4_quant",
}


def withhold(logger: logging.Logger) -> None:
    """Name the kernels without ops to the engine, here and for its workers."""
    given = [name for name in os.environ.get(VARIABLE, "").split(",") if name]
    without = [name for name, op in LINEAR.items() if not needs.is_served(op)]
    os.environ[VARIABLE] = ",".join(dict.fromkeys((*given, *without)))
    logger.debug("%s=%s: their ops are not here", VARIABLE, os.environ[VARIABLE])
