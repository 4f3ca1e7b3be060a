#include "cpu/selective_scan/selective_scan.h"

#include "torch/bind.h"

VK_BIND(CPU, mamba_chunk_scan_fwd_cpu, vk_cpu_mamba_chunk_scan);
VK_BIND(CPU, selective_state_update_cpu, vk_cpu_selective_state_update);
