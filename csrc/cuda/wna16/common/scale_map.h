#ifndef VLLM_KERNELS_CUDA_WNA16_COMMON_SCALE_MAP_H_
#define VLLM_KERNELS_CUDA_WNA16_COMMON_SCALE_MAP_H_

#include "cuda/sm90/tensor_map.h"
#include "cuda/wna16/checks.h"

namespace vk::cuda::wna16 {

// Boxes of FP4's scales, `columns` wide, of `chunks` of 64 of K: a copy of each short row costs as
// much as one of the whole box. Empty for other types. `matrices`: of the problem, one an expert.
inline CUtensorMap Fp4ScaleMap(const char* op, const Problem& problem, int64_t matrices,
                               int columns, int chunks) {
  if (!IsFp4(problem.type)) return {};
  const int64_t rows = matrices * (problem.k / Fp4Group(problem.type));
  return sm90::EncodeTensorMap<2>(
      op, problem.scales, CU_TENSOR_MAP_DATA_TYPE_UINT8,
      {static_cast<uint64_t>(problem.n), static_cast<uint64_t>(rows)}, {problem.n},
      {static_cast<uint32_t>(columns), static_cast<uint32_t>(chunks * ScaleRows(problem.type))},
      CU_TENSOR_MAP_SWIZZLE_NONE);
}

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_COMMON_SCALE_MAP_H_
