// The two warps that load for a block of the products with scales of blocks. Their loops have few
// instructions a chunk: a warp alone has nobody to hide their latency, and short chunks would wait
// for them (one warp with both took about a thousand cycles).
#ifndef VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_LOADER_CUH_
#define VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_LOADER_CUH_

#include <cstdint>

#include "cuda/moe_gemm/blocks_works.cuh"
#include "cuda/ptx/cp_async.cuh"
#include "cuda/ptx/cvta.cuh"
#include "cuda/ptx/griddepcontrol.cuh"
#include "cuda/ptx/tma.cuh"

namespace vk::cuda::moe_gemm {

// Maps of tokens in boxes of BoxTokens() and of kFewTokens, and of weights in boxes of a tile.
struct BlocksMaps {
  const CUtensorMap *weights, *tokens, *few_tokens;
};

// `Tiles`: Works of the tiles (blocks_works.cuh). Chunks of k from `begin` on.
template <class Storage, class Tiles>
class BlocksLoader {
 public:
  static constexpr int kStages = Storage::kStages;
  // Arrivals at a full stage: of the thread that announces bytes, and of each lane's scales.
  static constexpr int kProducers = 1 + 32;

  __device__ __forceinline__ BlocksLoader(const Blocks& blocks, Storage& storage, int32_t begin,
                                          int32_t chunks)
      : b_(blocks),
        storage_(storage),
        pipeline_(storage.pipeline),
        lane_(static_cast<int>(threadIdx.x) % 32),
        begin_(begin),
        chunks_(chunks) {}

  __device__ __forceinline__ void Run(const BlocksMaps& maps) const {
    const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
    if (warp > 1) return;
    Tiles tiles(b_, storage_.table);
    sm90::PipelineState at;
    TileOfWork tile;
    if (warp == 0) {
      while (tiles.Next(tile)) {
        if (lane_ == 0) LoadOperands(maps, tile, at);
        __syncwarp();
      }
      // Not sooner: blocks that wait beside those that load take their place.
      ptx::griddepcontrol_launch_dependents();
    } else {
      while (tiles.Next(tile)) LoadScales(tile, at);
    }
  }

 private:
  static constexpr int kTokens = Storage::kTokens;
  static constexpr int kBox = BoxTokens(kTokens), kFewBox = kTokens < 16 ? kTokens : kFewTokens;
  static constexpr int kWeightBytes = sizeof(Storage::Stage::weights);
  static_assert(kTokens <= 2 * kBox, "a tile has two boxes of tokens at most");

  // One thread.
  __device__ __forceinline__ void LoadOperands(const BlocksMaps& maps, const TileOfWork& tile,
                                               sm90::PipelineState& at) const {
    const bool few = tile.count <= 2 * kFewBox;
    const int box = few ? kFewBox : kBox;
    const bool two = tile.count > box;
    const CUtensorMap* const tokens = few ? maps.few_tokens : maps.tokens;
    const int32_t expert = b_.labels == nullptr ? tile.expert : 0;
    const int bytes = kWeightBytes + (two ? 2 : 1) * box * kDepth;
    const uint32_t stages = ptx::cvta_to_shared(storage_.stages);
    int32_t k = begin_ * kDepth;
    for (int32_t i = 0; i < chunks_; ++i, at.Advance(kStages), k += kDepth) {
      pipeline_.ProducerAcquire(at);
      const uint32_t full = pipeline_.full(at.stage);
      const uint32_t to = stages + at.stage * sizeof(typename Storage::Stage);
      pipeline_.ProducerCommit(at, bytes);
      ptx::tma_load_3d(to + sizeof(Storage::Stage::tokens), maps.weights, full, k, tile.weight_row,
                       tile.expert);
      ptx::tma_load_3d(to, tokens, full, k, tile.first_row, expert);
      if (two) {
        ptx::tma_load_3d(to + box * kDepth, tokens, full, k, tile.first_row + box, expert);
      }
    }
  }

  // A warp.
  __device__ __forceinline__ void LoadScales(const TileOfWork& tile,
                                             sm90::PipelineState& at) const {
    constexpr int kEach = (kTokens + 31) / 32;
    constexpr int kOfWeights = sizeof(Storage::Scales::weights) / sizeof(float);
    const int32_t expert = b_.labels == nullptr ? tile.expert : 0;
    const float* tokens[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      // Beyond the last token, the last one's: copied, and not used.
      const int32_t row = tile.first_row + min(32 * i + lane_, tile.count - 1);
      tokens[i] = b_.token_scales + expert * b_.token_scale_expert + row * b_.token_scale_row +
                  begin_ * b_.token_scale_chunk;
    }
    const int32_t last = (b_.n - 1) / kScaleBlock;
    const float* weights = b_.weight_scales + tile.expert * b_.weight_scale_expert +
                           min(tile.weight_row / kScaleBlock + lane_, last) * b_.weight_scale_row +
                           begin_ * b_.weight_scale_chunk;
    for (int32_t chunk = 0; chunk < chunks_; ++chunk, at.Advance(kStages)) {
      pipeline_.ProducerAcquire(at);
      auto& scales = storage_.scales[at.stage];
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        if (kTokens % 32 == 0 || lane_ < kTokens) {
          ptx::cp_async_ca_4(scales.Of(32 * i + lane_), tokens[i]);
        }
        tokens[i] += b_.token_scale_chunk;
      }
      if (lane_ < kOfWeights) ptx::cp_async_ca_4(&scales.weights[lane_], weights);
      weights += b_.weight_scale_chunk;
      ptx::cp_async_mbarrier_arrive_noinc(pipeline_.full(at.stage));
    }
  }

  const Blocks& b_;
  Storage& storage_;
  const sm90::Pipeline<kStages> pipeline_;
  const int lane_;
  const int32_t begin_, chunks_;
};

}  // namespace vk::cuda::moe_gemm
#endif  // VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_LOADER_CUH_
