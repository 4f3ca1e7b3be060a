// Between the checks (gated_delta_rule.cc) and the kernel. Strides count elements.
#ifndef VLLM_KERNELS_CUDA_GATED_DELTA_RULE_LAUNCH_H_
#define VLLM_KERNELS_CUDA_GATED_DELTA_RULE_LAUNCH_H_

#include <cstdint>

#include "core/abi.h"
#include "cuda/common/launch.h"

namespace vk::cuda::gated_delta_rule {

constexpr int kHead = 128;  // keys, and values, of a head

// Numbers of a dtype known when a kernel is launched.
struct Numbers {
  const void* data;
  int32_t dtype;
  int64_t stride;
};

struct Drafts {
  const void* qkv;
  Numbers a, b, a_log, dt_bias, norm_weight;
  const void* gate;
  void *out, *state;
  const int32_t *indices, *starts, *accepted;
  int64_t qkv_stride, gate_token, gate_head, index_stride, state_stride, slots;
  int32_t requests, columns;  // columns: of indices
  int32_t key_heads, heads;
  float scale, epsilon;
  bool sigmoid;
};

// `dtype`: of qkv; `state_dtype`: VK_F32 or VK_BF16.
void LaunchDrafts(const char* op, const Drafts& drafts, int32_t dtype, int32_t state_dtype,
                  cudaStream_t stream);

}  // namespace vk::cuda::gated_delta_rule
#endif  // VLLM_KERNELS_CUDA_GATED_DELTA_RULE_LAUNCH_H_
