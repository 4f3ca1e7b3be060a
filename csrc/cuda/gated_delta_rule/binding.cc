#include "cuda/gated_delta_rule/gated_delta_rule.h"

#include "torch/bind.h"

VK_BIND(CUDA, fused_gdn_decode_post_conv_mtp, vk_cuda_fused_gdn_decode_post_conv_mtp);
