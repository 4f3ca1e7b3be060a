#include "cuda/moe_gemm/moe_gemm.h"

#include "torch/bind.h"

VK_BIND(CUDA, cutlass_moe_mm, vk_cuda_cutlass_moe_mm);
VK_BIND(CUDA, grouped_mm_labelled, vk_cuda_grouped_mm_labelled);
VK_BIND(CUDA, grouped_mm_counted, vk_cuda_grouped_mm_counted);

VK_IMPL(CompositeExplicitAutograd, cutlass_group_gemm_supported, vk_cuda_group_gemm_supported);
