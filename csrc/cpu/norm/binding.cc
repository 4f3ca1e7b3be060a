#include "cpu/norm/norm.h"

#include "torch/bind.h"

VK_BIND(CPU, rms_norm, vk_cpu_rms_norm);
VK_BIND(CPU, fused_add_rms_norm, vk_cpu_fused_add_rms_norm);
