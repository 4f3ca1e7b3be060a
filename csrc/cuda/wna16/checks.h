// A checked vk_marlin_problem.
#ifndef VLLM_KERNELS_CUDA_WNA16_CHECKS_H_
#define VLLM_KERNELS_CUDA_WNA16_CHECKS_H_

#include <cstdint>

#include "core/check.h"
#include "cuda/wna16/weight_type.h"
#include "cuda/wna16/wna16.h"

namespace vk::cuda::wna16 {

struct Problem {
  WeightType type;
  int32_t dtype;  // of a
  int m, n, k;
  const void* a;
  int64_t lda;
  const void* weights;
  const void* scales;
  const uint32_t* zeros;
  const float* global_scale;
  const void* bias;
  const float *token_scales, *channel_scales;  // of the result, or null
  const int32_t* g_idx;                        // null where k / group says the group
  const int32_t* perm;
  int group, groups;
  int per_channel;
  bool copies_a;  // rows must be gathered or aligned first
};

// Whether an optional tensor is there: the engine passes empty ones for none.
inline bool Given(const vk_tensor* tensor) { return tensor != nullptr && NumElements(*tensor) > 0; }

// `count` factors of a result.
const float* Factors(const char* op, const char* name, const vk_tensor* tensor, int64_t count);

Problem CheckProblem(const char* op, const vk_marlin_problem* problem);

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_CHECKS_H_
