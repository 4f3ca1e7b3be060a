#include "cuda/mqa_logits/mqa_logits.h"

#include "torch/bind.h"

VK_BIND(CUDA, mqa_logits, vk_cuda_mqa_logits);
VK_BIND(CUDA, paged_mqa_logits, vk_cuda_paged_mqa_logits);
VK_BIND(CUDA, paged_mqa_logits_schedule, vk_cuda_paged_mqa_logits_schedule);
