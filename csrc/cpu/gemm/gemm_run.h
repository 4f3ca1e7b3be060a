// One multiplication with packed weights: blocks for the caches, threads, scratch memory.
#ifndef VLLM_KERNELS_CPU_GEMM_GEMM_RUN_H_
#define VLLM_KERNELS_CPU_GEMM_GEMM_RUN_H_

#include <cstddef>
#include <cstdint>

#include "core/abi.h"
#include "cpu/gemm/gemm_weights.h"

namespace vk {

// Checked arguments of vk_cpu_onednn_mm or vk_cpu_onednn_scaled_mm.
struct GemmCall {
  const GemmWeights& weights;
  const vk_tensor& c;
  const vk_tensor& a;
  const void* bias = nullptr;  // dtype of c
  // int8 only
  const float* a_scales = nullptr;
  size_t a_scale_stride = 0;
  const int32_t* azp = nullptr;
  size_t azp_stride = 0;
  const float* azp_adj = nullptr;  // one per column, padded to whole panels
};

// Throws std::bad_alloc where scratch memory is missing.
void RunGemm(const GemmCall& call);

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_GEMM_GEMM_RUN_H_
