#include "cpu/rope/rope.h"

#include "torch/bind.h"

VK_BIND(CPU, rotary_embedding, vk_cpu_rotary_embedding);
