#include "cpu/quant/quant.h"

#include "torch/bind.h"

VK_BIND(CPU, static_scaled_int8_quant, vk_cpu_static_scaled_int8_quant);
VK_BIND(CPU, dynamic_scaled_int8_quant, vk_cpu_dynamic_scaled_int8_quant);
