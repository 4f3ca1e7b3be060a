// The end of a tile in Marlin's kernel: sums are added over the warps, then over the blocks, scaled
// where scales are per channel, and written.
#ifndef VLLM_KERNELS_CUDA_WNA16_MARLIN_EPILOGUE_CUH_
#define VLLM_KERNELS_CUDA_WNA16_MARLIN_EPILOGUE_CUH_

#include "cuda/ptx/atomics.cuh"
#include "cuda/wna16/marlin/accumulator.cuh"
#include "cuda/wna16/marlin/schedule.cuh"

namespace vk::cuda::wna16 {

template <class T, WeightType kType, class S, bool kExperts>
class MarlinEpilogue {
 public:
  using Accumulator = MarlinAccumulator<T, kType, S>;
  using Schedule = MarlinSchedule<S, kExperts>;

  __device__ __forceinline__ MarlinEpilogue(const MarlinParams& params, const Schedule& schedule,
                                            typename Accumulator::Stage* stages,
                                            Accumulator& accumulator)
      : p_(params), schedule_(schedule), stages_(stages), acc_(accumulator) {}

  // All of K that this block has of `tile` is in. `is_shared`: other blocks have the rest.
  __device__ __forceinline__ void Run(int tile, bool is_shared) {
    if constexpr (S::kWarpsK > 1) ReduceWarps();
    if (is_shared && !ReduceBlocks(tile)) return;
    if (acc_.warp_k == 0) Write(tile);
  }

 private:
  // Behind the stages.
  __device__ __forceinline__ MarlinSums<S>& Shared() const {
    return *reinterpret_cast<MarlinSums<S>*>(stages_ + p_.stages);
  }

  // Adds the warps' sums to those of the first along K, in order.
  __device__ __forceinline__ void ReduceWarps() {
    if (acc_.warp_k > 0) {
#pragma unroll
      for (int f = 0; f < S::kFragments; ++f) *WarpSum(acc_.warp_k - 1, f) = acc_.Sum(f);
    }
    __syncthreads();
    if (acc_.warp_k == 0) {
#pragma unroll
      for (int w = 0; w < S::kWarpsK - 1; ++w) {
#pragma unroll
        for (int f = 0; f < S::kFragments; ++f) acc_.Add(f, *WarpSum(w, f));
      }
    }
  }

  __device__ __forceinline__ float4* WarpSum(int warp, int f) const {
    return reinterpret_cast<float4*>(Shared().warps[warp][acc_.warp_n][f][acc_.lane]);
  }

  // Hands this block's sums in. True in the block that came last, which then holds the whole tile.
  __device__ __forceinline__ bool ReduceBlocks(int tile) {
    const int first =
        static_cast<int>(static_cast<int64_t>(tile) * p_.k_steps / schedule_.block_steps);
    const int last =
        static_cast<int>((static_cast<int64_t>(tile + 1) * p_.k_steps - 1) / schedule_.block_steps);
    const int self = static_cast<int>(blockIdx.x);
    if (acc_.warp_k == 0) {
      float4* const mine = Partials(tile, self);
#pragma unroll
      for (int f = 0; f < S::kFragments; ++f) mine[f * kLanes] = acc_.Sum(f);
    }
    __syncthreads();
    int32_t* const lock = p_.locks + (p_.lock_by_tile ? tile : first);
    int& came = *reinterpret_cast<int*>(&Shared());
    if (threadIdx.x == 0) {
      came = ptx::atom_add_acq_rel_gpu(lock, 1);
      if (came == last - first) *lock = 0;  // as the next launch wants it
    }
    __syncthreads();
    const bool is_last = came == last - first;
    __syncthreads();  // `came` lies where sums of the next tile, or this one's output, go
    if (is_last && acc_.warp_k == 0) {
      acc_.Clear();
      constexpr int kAtOnce = S::kFragments <= 8 ? 2 : 1;  // blocks whose loads overlap
      for (int block = first; block <= last; block += kAtOnce) {
        float4 sums[kAtOnce][S::kFragments];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const float4* const theirs = Partials(tile, min(block + i, last));
#pragma unroll
          for (int f = 0; f < S::kFragments; ++f) sums[i][f] = __ldcg(theirs + f * kLanes);
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          if (block + i > last) break;
#pragma unroll
          for (int f = 0; f < S::kFragments; ++f) acc_.Add(f, sums[i][f]);
        }
      }
    }
    return is_last;
  }

  // Where `block` leaves its sums of a shared tile. It shares at most two: one that it starts in
  // the middle, then one whose beginning it does.
  __device__ __forceinline__ float4* Partials(int tile, int block) const {
    const bool starts = static_cast<int64_t>(tile) * p_.k_steps >=
                        static_cast<int64_t>(block) * schedule_.block_steps;
    return reinterpret_cast<float4*>(p_.partials) +
           ((2 * static_cast<int64_t>(block) + (starts ? 1 : 0)) * S::kWarpsN + acc_.warp_n) *
               (S::kFragments * kLanes) +
           acc_.lane;
  }

  // Scale per channel, bias, rounding; through shared memory, so that rows are written in a piece.
  __device__ __forceinline__ void Write(int tile) const {
    constexpr int kColumns = S::kMmaTiles * 16;
    constexpr int kPitch = kColumns * 2 + 16;
    static_assert(S::kTokens * kPitch <= sizeof(MarlinSums<S>::warps[0][0]),
                  "the warp's output fits its sums");
    auto* const staging = reinterpret_cast<unsigned char*>(Shared().warps[0][acc_.warp_n]);
    const int lane = acc_.lane;
    const int n0 = tile / schedule_.m_tiles * S::kN + acc_.warp_n * kColumns;
    const int m_tile = tile % schedule_.m_tiles;
    const bool in_range = n0 < p_.n;
    const auto* bias = static_cast<const uint16_t*>(p_.bias);
    int expert = 0;
    float factor[S::kTokenTiles][2];
    if constexpr (kExperts) {
      expert = p_.experts.experts[m_tile];
      if (expert < 0) return;
      if (bias != nullptr) bias += expert * p_.experts.bias_elements;
#pragma unroll
      for (int j = 0; j < S::kTokenTiles; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int row = schedule_.OutputRow(m_tile, 8 * j + 2 * (lane % 4) + e);
          const bool weighted = p_.experts.router_weights != nullptr && row >= 0;
          factor[j][e] = weighted ? p_.experts.router_weights[row] : 1.f;
        }
      }
    }
    const ColumnScales<T, kType> scales(p_, schedule_.template Scales<uint16_t>(expert), expert);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < S::kMmaTiles; ++i) {
#pragma unroll
      for (int high = 0; high < 2; ++high) {
        const int column = 16 * i + 8 * high + lane / 4;
        const int position = in_range ? ChannelPosition(n0 + column) : 0;
        const float scale = scales[position];
        const float offset = bias != nullptr ? T::ToFloat(bias[position]) : 0.f;
#pragma unroll
        for (int j = 0; j < S::kTokenTiles; ++j) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int token = 8 * j + 2 * (lane % 4) + e;
            float value = acc_.total[i][j][2 * high + e] * scale + offset;
            if constexpr (kExperts) value *= factor[j][e];
            *reinterpret_cast<uint16_t*>(staging + token * kPitch + column * 2) =
                T::FromFloat(value);
          }
        }
      }
    }
    __syncwarp();
    constexpr int kVectors = kColumns / 8;  // of 16 bytes in a row
#pragma unroll
    for (int i = 0; i < S::kTokens * kVectors / kLanes; ++i) {
      const int token = (i * kLanes + lane) / kVectors;
      const int vector = (i * kLanes + lane) % kVectors;
      const int row = schedule_.OutputRow(m_tile, token);
      if (in_range && row >= 0) {
        uint16_t* const to = static_cast<uint16_t*>(p_.c) + static_cast<int64_t>(row) * p_.n + n0;
        *reinterpret_cast<uint4*>(to + vector * 8) =
            *reinterpret_cast<const uint4*>(staging + token * kPitch + vector * 16);
      }
    }
    __syncwarp();
  }

  const MarlinParams& p_;
  const Schedule& schedule_;
  typename Accumulator::Stage* const stages_;
  Accumulator& acc_;
};

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_MARLIN_EPILOGUE_CUH_
