// Experts by a table instead of scores, and the scores that the table's experts have.
#ifndef VLLM_KERNELS_CUDA_MOE_ROUTING_TABLE_CUH_
#define VLLM_KERNELS_CUDA_MOE_ROUTING_TABLE_CUH_

#include "cuda/common/dtype.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/moe_routing/launch.h"

namespace vk::cuda::moe_routing {
namespace {

constexpr int kThreads = 128;

__device__ __forceinline__ float FiniteOr0(float x) { return isfinite(x) ? x : 0.0f; }

__device__ __forceinline__ float SoftplusSqrt(float x) {
  return sqrtf(fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))));
}

// Experts that a table names by token. A token whose id is in no row of it has the expert -1, which
// whatever reads the indices leaves out.
template <class T, class Id, class Expert>
__global__ void __launch_bounds__(kThreads)
    TableKernel(const __grid_constant__ TopK problem, const bool wide) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t token =
      static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + static_cast<int>(threadIdx.x) / 32;
  if (token >= problem.tokens) return;
  const T* row = static_cast<const T*>(problem.scores) + token * problem.score_stride;
  const int64_t id = static_cast<const Id*>(problem.token_ids)[token];
  const bool listed = id >= 0 && id < problem.table_rows;
  const Expert* experts =
      static_cast<const Expert*>(problem.table) + (listed ? id : 0) * problem.topk;
  const int64_t first = token * problem.topk;
  float sum = 0.0f;
  for (int k = lane; k < problem.topk; k += 32) {
    const int64_t expert = listed ? static_cast<int64_t>(experts[k]) : -1;
    const bool known = expert >= 0 && expert < problem.experts;
    const float score = known ? FiniteOr0(SoftplusSqrt(ToFloat(row[expert]))) : 0.0f;
    sum += score;
    problem.weights[first + k] = score;
    if (wide) {
      static_cast<int64_t*>(problem.indices)[first + k] = expert;
    } else {
      static_cast<int32_t*>(problem.indices)[first + k] = static_cast<int32_t>(expert);
    }
    problem.source_rows[first + k] = static_cast<int32_t>(k * problem.tokens + token);
  }
  sum = ReduceLanes<32>(sum, Sum());
  float scale = problem.factor;
  if (problem.renormalize) scale /= sum > 0.0f ? sum : 1.0f;
  for (int k = lane; k < problem.topk; k += 32) problem.weights[first + k] *= scale;
}

}  // namespace
}  // namespace vk::cuda::moe_routing
#endif  // VLLM_KERNELS_CUDA_MOE_ROUTING_TABLE_CUH_
