#include "cpu/activation/activation.h"

#include "torch/bind.h"

VK_BIND(CPU, silu_and_mul, vk_cpu_silu_and_mul);
VK_BIND(CPU, gelu_and_mul, vk_cpu_gelu_and_mul);
VK_BIND(CPU, gelu_tanh_and_mul, vk_cpu_gelu_tanh_and_mul);
VK_BIND(CPU, gelu_new, vk_cpu_gelu_new);
VK_BIND(CPU, gelu_fast, vk_cpu_gelu_fast);
VK_BIND(CPU, gelu_quick, vk_cpu_gelu_quick);
VK_BIND(CPU, gelu_tanh, vk_cpu_gelu_tanh);
