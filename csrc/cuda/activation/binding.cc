#include "cuda/activation/activation.h"

#include "torch/bind.h"

VK_BIND(CUDA, silu_and_mul, vk_cuda_silu_and_mul);
VK_BIND(CUDA, mul_and_silu, vk_cuda_mul_and_silu);
VK_BIND(CUDA, gelu_and_mul, vk_cuda_gelu_and_mul);
VK_BIND(CUDA, gelu_tanh_and_mul, vk_cuda_gelu_tanh_and_mul);
VK_BIND(CUDA, gelu_new, vk_cuda_gelu_new);
VK_BIND(CUDA, gelu_fast, vk_cuda_gelu_fast);
VK_BIND(CUDA, gelu_quick, vk_cuda_gelu_quick);
VK_BIND(CUDA, gelu_tanh, vk_cuda_gelu_tanh);
VK_BIND(CUDA, relu_squared, vk_cuda_relu_squared);
VK_BIND(CUDA, fatrelu_and_mul, vk_cuda_fatrelu_and_mul);
VK_BIND(CUDA, silu_and_mul_with_clamp, vk_cuda_silu_and_mul_with_clamp);
VK_BIND(CUDA, swigluoai_and_mul, vk_cuda_swigluoai_and_mul);
VK_BIND(CUDA, silu_and_mul_quant, vk_cuda_silu_and_mul_quant);
VK_BIND(CUDA, silu_and_mul_per_block_quant, vk_cuda_silu_and_mul_per_block_quant);
VK_BIND(CUDA, persistent_masked_m_silu_mul_quant, vk_cuda_persistent_masked_m_silu_mul_quant);
VK_BIND(CUDA, situ_and_mul, vk_cuda_situ_and_mul);
VK_BIND(CUDA, situ_and_mul_quant, vk_cuda_situ_and_mul_quant);
VK_BIND(CUDA, masked_situ_and_mul, vk_cuda_masked_situ_and_mul);
VK_BIND(CUDA, masked_moe_activation, vk_cuda_masked_moe_activation);
VK_BIND(CUDA, muse_spark_mul_tanh_soft_cap, vk_cuda_muse_spark_mul_tanh_soft_cap);
