#include "cuda/norm/norm.h"

#include "torch/bind.h"

VK_BIND(CUDA, rms_norm, vk_cuda_rms_norm);
VK_BIND(CUDA, fused_add_rms_norm, vk_cuda_fused_add_rms_norm);
VK_BIND(CUDA, rms_norm_static_fp8_quant, vk_cuda_rms_norm_static_fp8_quant);
VK_BIND(CUDA, fused_add_rms_norm_static_fp8_quant, vk_cuda_fused_add_rms_norm_static_fp8_quant);
VK_BIND(CUDA, rms_norm_dynamic_per_token_quant, vk_cuda_rms_norm_dynamic_per_token_quant);
VK_BIND(CUDA, rms_norm_per_block_quant, vk_cuda_rms_norm_per_block_quant);
