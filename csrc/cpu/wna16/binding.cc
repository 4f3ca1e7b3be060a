#include "cpu/wna16/wna16.h"

#include "torch/bind.h"

VK_BIND(CPU, cpu_gemm_wna16, vk_cpu_gemm_wna16);
