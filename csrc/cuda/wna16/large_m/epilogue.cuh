// The end of the large-M kernel: a cluster's sums are added up in shared memory, scaled where
// scales are per channel, and written in rows.
#ifndef VLLM_KERNELS_CUDA_WNA16_LARGE_M_EPILOGUE_CUH_
#define VLLM_KERNELS_CUDA_WNA16_LARGE_M_EPILOGUE_CUH_

#include "cuda/ptx/cvta.cuh"
#include "cuda/ptx/griddepcontrol.cuh"
#include "cuda/wna16/common/fragments.cuh"
#include "cuda/wna16/large_m/tile.cuh"

namespace vk::cuda::wna16 {

template <class T, WeightType kType, class S>
class LargeMEpilogue {
 public:
  // `shared`: the stages, which are free when both warpgroups have come here.
  __device__ __forceinline__ LargeMEpilogue(const LargeMParams& params, const LargeMTile<S>& tile,
                                            const LargeMConsumer<S>& self, unsigned char* shared)
      : p_(params), tile_(tile), self_(self), shared_(shared) {}

  // Both warpgroups.
  __device__ __forceinline__ void Run(const float (&total)[S::kMmaTiles][S::kSums]) const {
    constexpr int kBlocks = S::kTokens / 8;                          // of eight tokens
    const int each = (kBlocks + tile_.cluster - 1) / tile_.cluster;  // the last have fewer
    float factor[S::kMmaTiles][2], offset[S::kMmaTiles][2];
    LoadColumns(factor, offset);
    self_.SyncConsumers();  // both have done with the stages
    if (tile_.cluster == 1) {
#pragma unroll
      for (int t = 0; t < S::kMmaTiles; ++t) {
#pragma unroll
        for (int j = 0; j < kBlocks; ++j) {
          StageSums(shared_, t, j, factor[t], offset[t], total[t][4 * j], total[t][4 * j + 1],
                    total[t][4 * j + 2], total[t][4 * j + 3]);
        }
      }
      self_.SyncConsumers();
      ptx::griddepcontrol_wait();
      WriteRows(shared_, tile_.token0, S::kTokens);
      return;
    }
    ptx::cluster_arrive();
    ptx::cluster_wait();  // all have done with theirs
    const uint32_t sums = ptx::cvta_to_shared(shared_);
#pragma unroll
    for (int t = 0; t < S::kMmaTiles; ++t) {
      int to = 0, place = 0;
#pragma unroll
      for (int j = 0; j < kBlocks; ++j) {
        const int at = ((tile_.rank * S::kMmaTiles + t) * each + place) * 256 + self_.thread;
        ptx::st_shared_cluster(ptx::mapa(sums + at * 16, to),
                               make_float4(total[t][4 * j], total[t][4 * j + 1],
                                           total[t][4 * j + 2], total[t][4 * j + 3]));
        if (++place == each) {
          place = 0;
          ++to;
        }
      }
    }
    ptx::cluster_arrive();
    ptx::cluster_wait();
    const int own = max(min(each, kBlocks - tile_.rank * each), 0);
    unsigned char* const rows = shared_ + tile_.cluster * S::kMmaTiles * each * 256 * 16;
    const float4* const received = reinterpret_cast<const float4*>(shared_);
#pragma unroll
    for (int t = 0; t < S::kMmaTiles; ++t) {
      for (int j = 0; j < own; ++j) {
        float4 sum = make_float4(0, 0, 0, 0);
        for (int from = 0; from < tile_.cluster; ++from) {
          const float4 one = received[((from * S::kMmaTiles + t) * each + j) * 256 + self_.thread];
          sum.x += one.x;
          sum.y += one.y;
          sum.z += one.z;
          sum.w += one.w;
        }
        StageSums(rows, t, j, factor[t], offset[t], sum.x, sum.y, sum.z, sum.w);
      }
    }
    self_.SyncConsumers();
    ptx::griddepcontrol_wait();
    WriteRows(rows, tile_.token0 + tile_.rank * each * 8, own * 8);
  }

  // The producer's warps, which the cluster's barriers count too.
  static __device__ __forceinline__ void RunProducer(const LargeMTile<S>& tile) {
    if (tile.cluster == 1) return;
    ptx::cluster_arrive();
    ptx::cluster_wait();
    ptx::cluster_arrive();
    ptx::cluster_wait();
  }

 private:
  static constexpr int kPitch = S::kColumns * 2 + 16;  // of a row of c in shared memory

  // Column of the block.
  __device__ __forceinline__ int Column(int t, int high) const {
    return self_.packed_tile * kPackedTileN + (self_.first_mma_tile + t) * 16 + 8 * high +
           self_.lane / 4;
  }

  __device__ __forceinline__ void LoadColumns(float (&factor)[S::kMmaTiles][2],
                                              float (&offset)[S::kMmaTiles][2]) const {
    const auto* const bias = static_cast<const uint16_t*>(p_.bias);
    const ColumnScales<T, kType> scales(p_, p_.scales, 0);
#pragma unroll
    for (int t = 0; t < S::kMmaTiles; ++t) {
#pragma unroll
      for (int high = 0; high < 2; ++high) {
        const int column = tile_.packed_tile0 * kPackedTileN + Column(t, high);
        const int position = self_.packed_tile < tile_.packed_tiles ? ChannelPosition(column) : 0;
        factor[t][high] = scales[position];
        offset[t][high] = bias != nullptr ? T::ToFloat(bias[position]) : 0.f;
      }
    }
  }

  // Sums of tile `t` and the eight tokens number `j` as rows of c.
  __device__ __forceinline__ void StageSums(unsigned char* rows, int t, int j,
                                            const float (&factor)[2], const float (&offset)[2],
                                            float x, float y, float z, float w) const {
    const float values[4] = {x, y, z, w};
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int token = 8 * j + 2 * (self_.lane % 4) + e % 2;
      *reinterpret_cast<uint16_t*>(rows + token * kPitch + Column(t, e / 2) * 2) =
          T::FromFloat(values[e] * factor[e / 2] + offset[e / 2]);
    }
  }

  __device__ __forceinline__ void WriteRows(const unsigned char* rows, int first, int count) const {
    constexpr int kVectors = S::kColumns / 8;  // of 16 bytes in a row
    for (int i = self_.thread; i < count * kVectors; i += 256) {
      const int token = i / kVectors, vector = i % kVectors;
      if (first + token >= p_.m || vector >= tile_.packed_tiles * (kPackedTileN / 8)) continue;
      uint16_t* const to = static_cast<uint16_t*>(p_.c) +
                           static_cast<int64_t>(first + token) * p_.n +
                           tile_.packed_tile0 * kPackedTileN + vector * 8;
      *reinterpret_cast<uint4*>(to) =
          *reinterpret_cast<const uint4*>(rows + token * kPitch + vector * 16);
    }
  }

  const LargeMParams& p_;
  const LargeMTile<S>& tile_;
  const LargeMConsumer<S>& self_;
  unsigned char* const shared_;
};

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_LARGE_M_EPILOGUE_CUH_
