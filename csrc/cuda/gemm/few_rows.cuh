// FP8 by blocks for few rows on Hopper: weights are the rows of the tensor cores' tile and rows of
// a its columns, so that a tile takes as few as 16. Two warpgroups take chunks of K in turn, and a
// cluster's blocks a share of K each: their sums meet in shared memory, always in the same order.
#ifndef VLLM_KERNELS_CUDA_GEMM_FEW_ROWS_CUH_
#define VLLM_KERNELS_CUDA_GEMM_FEW_ROWS_CUH_

#include <cuda.h>

#include "cuda/common/dtype.cuh"
#include "cuda/gemm/few_rows.h"
#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/griddepcontrol.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/named_barrier.cuh"
#include "cuda/ptx/tma.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/pipeline.cuh"
#include "cuda/sm90/shared_storage.cuh"
#include "cuda/sm90/smem_desc.cuh"

namespace vk::cuda::gemm {

struct FewRowsParams {
  const float* a_scales;  // a column for each chunk of K
  const float* b_scales;  // a column for each 128 columns of the result
  int64_t a_scales_ld, b_scales_ld;
  void* out;
  int64_t ldo;
  int m, n, k;
  int m_tiles;  // fastest, so that weights are read from memory once
  int chunks;   // of a block
  bool bf16;
};

template <int kRows>
struct FewRowsStorage {
  static constexpr int kFragments = kRows / 8;  // of eight rows of a
  // As many as let two blocks share a multiprocessor.
  static constexpr int kStages = kRows == 16 ? 9 : kRows == 32 ? 7 : 5;
  // Of the most unfavourable cluster: blocks times fragments that each adds up.
  static constexpr int kSums = kFragments == 8 ? 14 : 8;
  using Pipeline = sm90::Pipeline<kStages>;

  char weights[kStages][kFewRowsColumns * kFewRowsDepth];
  char rows[kStages][kRows * kFewRowsDepth];
  float4 cluster_sums[kSums][128];
  alignas(16) float scales[kStages][kRows];
  typename Pipeline::SharedStorage pipeline;
};

template <int kRows>
class FewRowsBlock {
 public:
  using Storage = FewRowsStorage<kRows>;
  using Pipeline = typename Storage::Pipeline;
  static constexpr int kStages = Storage::kStages, kFragments = Storage::kFragments;

  __device__ __forceinline__ FewRowsBlock(const FewRowsParams& params, Storage& storage)
      : p_(params),
        storage_(storage),
        pipeline_(storage.pipeline),
        warp_(__shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0)),
        lane_(static_cast<int>(threadIdx.x) % 32),
        cluster_(ptx::cluster_nctarank()),
        rank_(ptx::cluster_ctarank()) {
    const int tile = static_cast<int>(blockIdx.x) / cluster_;
    row0_ = tile % p_.m_tiles * kRows;
    column0_ = tile / p_.m_tiles * kFewRowsColumns;
    begin_ = rank_ * p_.chunks;
    const int all = (p_.k + kFewRowsDepth - 1) / kFewRowsDepth;
    chunks_ = max(min(p_.chunks, all - begin_), 0);
  }

  __device__ __forceinline__ void Run(const CUtensorMap* weight_map, const CUtensorMap* row_map) {
    if (threadIdx.x == 0) {
      pipeline_.Init(4);  // warps of a warpgroup
      ptx::fence_mbarrier_init();
    }
    __syncthreads();
    if (cluster_ > 1) ptx::cluster_arrive();
    ptx::griddepcontrol_wait();
    if (warp_ == kConsumerWarps) {
      Load(weight_map, row_map);
      __syncwarp();
      if (cluster_ == 1) return;
      ptx::cluster_wait();
      ptx::cluster_arrive();
      ptx::cluster_wait();
    } else {
      float sums[kRows / 2];
      Multiply(sums);
      AddUp(sums);
    }
  }

 private:
  enum class NamedBarrier : int { kConsumers = 1 };
  static constexpr int kConsumerWarps = 8;

  // One warp, of which one thread loads.
  __device__ __forceinline__ void Load(const CUtensorMap* weight_map,
                                       const CUtensorMap* row_map) const {
    if (lane_ != 0) return;
    // The scales come by fours; those beyond the last row are there, and are not used.
    const int scales = min(kRows, (p_.m - row0_ + 3) / 4 * 4);
    constexpr int kBoxes = sizeof(Storage::weights[0]) + sizeof(Storage::rows[0]);
    sm90::PipelineState at;
    for (int i = 0; i < chunks_; ++i, at.Advance(kStages)) {
      const int chunk = begin_ + i, stage = at.stage;
      pipeline_.ProducerAcquire(at);
      const uint32_t full = pipeline_.full(stage);
      pipeline_.ProducerCommit(at, kBoxes + scales * 4);
      ptx::tma_load_2d(ptx::cvta_to_shared(storage_.weights[stage]), weight_map, full,
                       chunk * kFewRowsDepth, column0_);
      ptx::tma_load_2d(ptx::cvta_to_shared(storage_.rows[stage]), row_map, full,
                       chunk * kFewRowsDepth, row0_);
      ptx::bulk_copy_g2s(ptx::cvta_to_shared(storage_.scales[stage]),
                         p_.a_scales + chunk * p_.a_scales_ld + row0_, scales * 4, full);
    }
    // Not sooner: blocks that wait beside those that load take their place.
    ptx::griddepcontrol_launch_dependents();
  }

  // Sums of the warpgroup's chunks.
  __device__ __forceinline__ void Multiply(float (&sums)[kRows / 2]) const {
    const int group = warp_ / 4;
    const float* const b_scales = p_.b_scales + column0_ / kFewRowsDepth * p_.b_scales_ld + begin_;
    const uint64_t first_weights =
        sm90::MakeSmemDesc<ptx::Major::kK>(ptx::cvta_to_shared(storage_.weights[0]));
    const uint64_t first_rows =
        sm90::MakeSmemDesc<ptx::Major::kK>(ptx::cvta_to_shared(storage_.rows[0]));
#pragma unroll
    for (float& sum : sums) sum = 0.0f;
    sm90::PipelineState at;
    if (group == 1) at.Advance(kStages);
    float next_scale = group < chunks_ ? __ldg(b_scales + group) : 0.0f;
    for (int i = group; i < chunks_; i += 2) {
      const float b_scale = next_scale;
      if (i + 2 < chunks_) next_scale = __ldg(b_scales + i + 2);
      pipeline_.ConsumerWait(at);
      const uint64_t weights =
          sm90::AdvanceSmemDesc(first_weights, at.stage * sizeof(Storage::weights[0]));
      const uint64_t rows = sm90::AdvanceSmemDesc(first_rows, at.stage * sizeof(Storage::rows[0]));
      float part[kRows / 2];
      ptx::warpgroup_fence_operand(part);
      ptx::wgmma_fence();
#pragma unroll
      for (int k = 0; k < kFewRowsDepth; k += 32) {
        ptx::wgmma_ss<E4M3>(part, sm90::AdvanceSmemDesc(weights, k), sm90::AdvanceSmemDesc(rows, k),
                            k > 0);
      }
      ptx::wgmma_commit_group();
      float2 scales[kFragments];
#pragma unroll
      for (int j = 0; j < kFragments; ++j) {
        const float2 two =
            *reinterpret_cast<const float2*>(&storage_.scales[at.stage][8 * j + lane_ % 4 * 2]);
        scales[j] = make_float2(two.x * b_scale, two.y * b_scale);
      }
      ptx::wgmma_wait_group<0>();
      ptx::warpgroup_fence_operand(part);
      __syncwarp();
      if (lane_ == 0) pipeline_.ConsumerRelease(at.stage);
#pragma unroll
      for (int j = 0; j < kFragments; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          sums[4 * j + e] += (e % 2 == 0 ? scales[j].x : scales[j].y) * part[4 * j + e];
        }
      }
      at.Advance(kStages);
      at.Advance(kStages);
    }
  }

  static __device__ __forceinline__ void SyncConsumers() {
    ptx::named_barrier_sync(static_cast<int>(NamedBarrier::kConsumers), 32 * kConsumerWarps);
  }

  // The second warpgroup's sums go to the first, whose go to the blocks that write them.
  __device__ __forceinline__ void AddUp(float (&sums)[kRows / 2]) const {
    const int group = warp_ / 4, thread = static_cast<int>(threadIdx.x) % 128;
    float4* const others = reinterpret_cast<float4*>(storage_.weights);  // which nobody reads now
    static_assert(sizeof(float4) * kFragments * 128 <= sizeof(Storage::weights));
    SyncConsumers();
    if (group == 1) {
#pragma unroll
      for (int j = 0; j < kFragments; ++j) {
        others[j * 128 + thread] =
            make_float4(sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3]);
      }
    }
    SyncConsumers();
    const int each = (kFragments + cluster_ - 1) / cluster_;  // the last block has fewer
    if (cluster_ > 1) ptx::cluster_wait();                    // all have started
    if (group == 0) {
      const uint32_t to = ptx::cvta_to_shared(storage_.cluster_sums);
      int rank = 0, place = 0;
#pragma unroll
      for (int j = 0; j < kFragments; ++j) {
        const float4 other = others[j * 128 + thread];
        const float4 sum = make_float4(sums[4 * j] + other.x, sums[4 * j + 1] + other.y,
                                       sums[4 * j + 2] + other.z, sums[4 * j + 3] + other.w);
        if (cluster_ == 1) {
          Write(j, sum);
          continue;
        }
        ptx::st_shared_cluster(ptx::mapa(to + ((rank_ * each + place) * 128 + thread) * 16, rank),
                               sum);
        if (++place == each) {
          place = 0;
          ++rank;
        }
      }
    }
    if (cluster_ == 1) return;
    __syncwarp();
    ptx::cluster_arrive();
    ptx::cluster_wait();
    const int own = min(each, kFragments - rank_ * each);
    for (int j = group; j < own; j += 2) {
      float4 sum = make_float4(0, 0, 0, 0);
      for (int from = 0; from < cluster_; ++from) {
        const float4 one = storage_.cluster_sums[from * each + j][thread];
        sum.x += one.x;
        sum.y += one.y;
        sum.z += one.z;
        sum.w += one.w;
      }
      Write(rank_ * each + j, sum);
    }
  }

  // Neighbouring columns of the result meet in one register.
  __device__ __forceinline__ void Write(int fragment, const float4& sum) const {
    const float values[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (int high = 0; high < 2; ++high) {
      const int column = column0_ + warp_ % 4 * 16 + 8 * high + lane_ / 4;
      // The lanes of an even and an odd column trade: one takes the first row, one the second.
      const bool odd = lane_ / 4 % 2 != 0;
      const float mine = values[2 * high], next = values[2 * high + 1];
      const float traded = __shfl_xor_sync(0xffffffffu, odd ? mine : next, 4);
      const int row = row0_ + fragment * 8 + 2 * (lane_ % 4) + (odd ? 1 : 0);
      if (row >= p_.m || column >= p_.n) continue;
      const float low = odd ? traded : mine, top = odd ? next : traded;
      const uint32_t pair = p_.bf16 ? PackPair<BFloat16>(low, top) : PackPair<Half>(low, top);
      *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(p_.out) + row * p_.ldo + (column & ~1)) =
          pair;
    }
  }

  const FewRowsParams& p_;
  Storage& storage_;
  const Pipeline pipeline_;
  const int warp_, lane_, cluster_, rank_;
  int row0_, column0_;
  int begin_, chunks_;  // of K
};

template <int kRows>
__global__ void __launch_bounds__(kFewRowsThreads, 2)
    FewRowsKernel(const __grid_constant__ FewRowsParams params,
                  const __grid_constant__ CUtensorMap weights,
                  const __grid_constant__ CUtensorMap rows) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ char few_rows_shared[];
  auto& storage = sm90::AlignedStorage<FewRowsStorage<kRows>>(few_rows_shared);
  FewRowsBlock<kRows>(params, storage).Run(&weights, &rows);
#endif
}

}  // namespace vk::cuda::gemm
#endif  // VLLM_KERNELS_CUDA_GEMM_FEW_ROWS_CUH_
