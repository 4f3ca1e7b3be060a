// FP8 by blocks on Hopper: the experts' kernel (moe_gemm/blocks_rows.cuh) with one expert that has
// all rows. Included by the generated instances only.
#ifndef VLLM_KERNELS_CUDA_GEMM_BLOCKS_SM90_CUH_
#define VLLM_KERNELS_CUDA_GEMM_BLOCKS_SM90_CUH_

#include "cuda/gemm/tiles.h"
#include "cuda/moe_gemm/blocks_launch.cuh"

namespace vk::cuda::gemm {

template <int kColumns, int kSplit>
void RunBlocksSm90(const Problem& p) {
  static_assert(kBlock == moe_gemm::kScaleBlock);
  moe_gemm::BlocksCall call = {};
  moe_gemm::Blocks& b = call.blocks;
  b.out = p.out;
  b.out_row = p.ldo;
  b.half = p.out_dtype == VK_F16;
  b.token_scales = p.a_scales;
  b.token_scale_row = 1;
  b.token_scale_chunk = p.a_scales_ld;
  b.weight_scales = p.b_scales;
  b.weight_scale_row = p.b_scales_ld;
  b.weight_scale_chunk = 1;
  b.rows = p.m;
  b.n = p.n;
  b.k = p.k;
  b.experts = 1;
  call.tokens = p.a;
  call.token_row = p.lda;
  call.weights = p.b;
  call.weight_row = p.ldb;
  moe_gemm::LaunchRows<kColumns, kSplit>(p.op, call, p.stream);
}

}  // namespace vk::cuda::gemm
#endif  // VLLM_KERNELS_CUDA_GEMM_BLOCKS_SM90_CUH_
