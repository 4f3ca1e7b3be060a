// Launches of the products with scales of blocks: included by the generated instances only.
#ifndef VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_LAUNCH_CUH_
#define VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_LAUNCH_CUH_

#include <algorithm>

#include "cuda/common/launch.h"
#include "cuda/moe_gemm/blocks.cuh"
#include "cuda/moe_gemm/blocks_rows.cuh"
#include "cuda/sm90/device.h"
#include "cuda/sm90/tensor_map.h"

namespace vk::cuda::moe_gemm {

// Of a [groups][rows][k] matrix of bytes, in boxes of so many rows.
inline CUtensorMap BlocksMap(const char* op, const void* data, int32_t k, int32_t rows,
                             int32_t groups, int64_t row, int64_t group, int box) {
  return sm90::EncodeTensorMap<3>(
      op, data, CU_TENSOR_MAP_DATA_TYPE_UINT8,
      {static_cast<uint64_t>(k), static_cast<uint64_t>(rows), static_cast<uint64_t>(groups)},
      {row, group}, {kDepth, static_cast<uint32_t>(box), 1});
}

// `kernel` works on tiles of Storage's tokens and kWeights. Clusters of kSplit blocks share k, and
// have one tile each.
template <class Storage, int kWeights, int kSplit, class Kernel>
void LaunchBlocks(const char* op, const BlocksCall& call, Kernel* kernel, cudaStream_t stream) {
  constexpr int kTokens = Storage::kTokens;
  const Blocks& b = call.blocks;
  const int32_t batches = b.labels != nullptr ? 1 : b.experts;
  const int64_t tiles = CeilDiv(b.rows, kTokens) * batches * CeilDiv(b.n, kWeights);
  VK_CHECK(tiles <= INT32_MAX / 2, "%s: %lld tiles of work, want less than 2^30", op, Print(tiles));
  const int64_t blocks = kSplit > 1
                             ? tiles * kSplit
                             : std::min<int64_t>(tiles, sm90::CurrentHopper(op).multiprocessors);
  const auto tokens = [&](int box) {
    return BlocksMap(op, call.tokens, b.k, b.rows, batches, call.token_row, call.token_expert, box);
  };
  LaunchConfig launch{dim3(static_cast<unsigned>(blocks)), dim3(kThreads),
                      sm90::kSharedBytes<Storage>, stream, true};
  if (kSplit > 1) launch.cluster = dim3(kSplit, 1, 1);
  LaunchKernel(op, kernel, launch, b,
               BlocksMap(op, call.weights, b.k, b.n, b.experts, call.weight_row, call.weight_expert,
                         kWeights),
               tokens(BoxTokens(kTokens)), tokens(kFewTokens));
}

template <int kTokens, int kWaves>
void LaunchTurned(const char* op, const BlocksCall& call, cudaStream_t stream) {
  using Block = BlocksBlock<kTokens, kWaves>;
  LaunchBlocks<typename Block::Storage, Block::kRows, 1>(op, call, &BlocksKernel<kTokens, kWaves>,
                                                         stream);
}

template <int kColumns, int kSplit>
void LaunchRows(const char* op, const BlocksCall& call, cudaStream_t stream) {
  LaunchBlocks<RowsStorage<kColumns>, kColumns, kSplit>(op, call, &RowsKernel<kColumns, kSplit>,
                                                        stream);
}

}  // namespace vk::cuda::moe_gemm
#endif  // VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_LAUNCH_CUH_
