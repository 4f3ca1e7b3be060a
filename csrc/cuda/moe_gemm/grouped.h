// What the grouped GEMM is launched with.
#ifndef VLLM_KERNELS_CUDA_MOE_GEMM_GROUPED_H_
#define VLLM_KERNELS_CUDA_MOE_GEMM_GROUPED_H_

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace vk::cuda::moe_gemm {

constexpr int kMaxExperts = 1024;
constexpr int kWeightRows = 128;  // of a tile: 64 for each of two warpgroups
constexpr int kDepth = 128;       // bytes of k of a stage, one row of the 128-byte swizzle

// A tile is copied in boxes of so many tokens, and multiplied with as many boxes as have a token.
constexpr int BoxTokens(int tokens) { return tokens < 64 ? tokens : 64; }

// out[first + i] = (tokens[first + i] . weights[expert]) x scales, for each expert's tokens.
struct Grouped {
  void* out;  // [rows, n], row stride out_stride
  const float* token_scales;
  const float* weight_scales;
  const void* first_rows;  // [experts], int32 or int64
  const int32_t* sizes;    // [experts, 3]: tokens, n, k, or n, tokens, k
  int64_t out_stride;
  int32_t rows, n, k, experts;
  bool wide_first_rows;
  bool per_token, per_expert;  // scales of tokens; neither: one for all
  bool per_channel;            // scales of weights; else per expert
};

// Launches the kernel of one tile size.
using Launch = void(const char* op, const Grouped& grouped, const CUtensorMap& weights,
                    const CUtensorMap& tokens, bool bfloat16, int32_t blocks, cudaStream_t stream);
Launch LaunchTokens16, LaunchTokens32, LaunchTokens64, LaunchTokens128, LaunchTokens256;

// The problem with the strides of its tensors, in bytes.
struct GroupedCall {
  Grouped grouped;
  const void *tokens, *weights;
  int64_t token_stride, weight_stride, expert_stride;
  bool bfloat16;
};
void RunGrouped(const char* op, const GroupedCall& call, cudaStream_t stream);

}  // namespace vk::cuda::moe_gemm
#endif  // VLLM_KERNELS_CUDA_MOE_GEMM_GROUPED_H_
