#include "cuda/selective_scan/selective_scan.h"

#include "torch/bind.h"

VK_BIND(CUDA, selective_scan_fwd, vk_cuda_selective_scan_fwd);
