// What the plans of all kernels share: plain arithmetic, testable without a GPU.
#ifndef VLLM_KERNELS_CUDA_WNA16_COMMON_PLAN_H_
#define VLLM_KERNELS_CUDA_WNA16_COMMON_PLAN_H_

#include <cstdint>

#include "cuda/common/divide.h"
#include "cuda/wna16/weight_type.h"

namespace vk::cuda::wna16 {

struct DeviceLimits {
  int sms;
  int shared_bytes;  // that a block may have
};

// The group of a position in K without a division: the position's 64 of K (32 where groups are that
// short; nobody asks for FP4's), times this, over 2^32. Exact up to kMaxK: the reciprocal's error
// stays below 1 / group.
constexpr uint64_t GroupMagic(int group) {
  return (uint64_t{1} << 32) / static_cast<uint64_t>(group < 64 ? 1 : group / 64) + 1;
}
inline constexpr int kMaxK = 1 << 21;

// Whether the kernels for 9.0, whose stages are whole chunks of 64 of K, can load the scales.
constexpr bool ScalesServe(WeightType type, int group, bool per_channel) {
  return per_channel || group % 64 == 0 || IsFp4(type);
}

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_COMMON_PLAN_H_
