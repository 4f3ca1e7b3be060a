#include "cpu/moe_gemm/moe_gemm.h"

#include "torch/bind.h"

VK_BIND(CPU, prepack_moe_weight, vk_cpu_prepack_moe_weight);
VK_BIND(CPU, cpu_fused_moe, vk_cpu_fused_moe);
