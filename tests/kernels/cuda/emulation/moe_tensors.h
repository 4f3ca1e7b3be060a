// Tensors of random problems of the experts' products.
#ifndef VLLM_KERNELS_TESTS_MOE_TENSORS_H_
#define VLLM_KERNELS_TESTS_MOE_TENSORS_H_

#include <vector>

#include "device.h"
#include "seeded.h"

#include "cuda/common/dtype.cuh"
#include "cuda/moe_gemm/grouped.h"

namespace emulation::moe {

using vk::cuda::E4M3;

constexpr float kUntouched = 12345.0f;  // what results are filled with

inline std::vector<E4M3> Values(int64_t count) {
  std::vector<E4M3> values(static_cast<size_t>(count));
  for (E4M3& x : values) x = vk::cuda::FromFloat<E4M3>(seeded::Normal());
  return values;
}

inline std::vector<float> Scales(int64_t count) {
  std::vector<float> scales(static_cast<size_t>(count));
  for (float& x : scales) x = 0.01f * static_cast<float>(seeded::Number(1, 100));
  return scales;
}

// Of [experts, rows, k], in boxes of `box` rows.
inline CUtensorMap MapOf(const std::vector<E4M3>& values, int64_t k, int64_t rows, int64_t experts,
                         int box) {
  return Encode({reinterpret_cast<const char*>(values.data()),
                 3,
                 1,
                 {k, rows, experts, 1},
                 {k, rows * k, 0},
                 {vk::cuda::moe_gemm::kDepth, static_cast<uint32_t>(box), 1, 1}});
}

}  // namespace emulation::moe
#endif  // VLLM_KERNELS_TESTS_MOE_TENSORS_H_
