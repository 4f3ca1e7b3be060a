// One product as its checks leave it: what the launchers of every generation of GPUs take.
#ifndef VLLM_KERNELS_CUDA_GEMM_PROBLEM_H_
#define VLLM_KERNELS_CUDA_GEMM_PROBLEM_H_

#include <cuda_runtime.h>

#include <cstdint>

#include "core/abi.h"

namespace vk::cuda::gemm {

// Side of the blocks that share one scale: 1 x kBlock of a, kBlock x kBlock of b.
constexpr int32_t kBlock = 128;

struct Problem {
  const char* op;
  int32_t m, n, k;
  const void* a;  // [m, k]; rows are lda elements apart
  const void* b;  // [k, n]; columns are ldb elements apart
  void* out;      // [m, n]; rows are ldo elements apart
  int64_t lda, ldb, ldo;
  int32_t dtype;      // of a and b: VK_F8E4M3 or VK_I8
  int32_t out_dtype;  // VK_BF16 or VK_F16; the bias has it too
  const float* a_scales;
  const float* b_scales;
  bool a_per_row, b_per_column;  // else one scale, or blocks
  bool blocks;
  int64_t a_scales_ld, b_scales_ld;  // blocks: between the columns of a_scales and of b_scales
  const void* bias;                  // [n] or null
  const int32_t* azp;                // [m], or null: 1
  const int32_t* azp_adj;            // [n], or null: no zero point
  int32_t capability;                // of the GPU: 90 for 9.0
  int32_t multiprocessors;
  cudaStream_t stream;
};

}  // namespace vk::cuda::gemm
#endif  // VLLM_KERNELS_CUDA_GEMM_PROBLEM_H_
