// What a consumer warpgroup computes: the weights of one stage of each pair of keys, and half of
// the output's columns from the weights of both.
#ifndef VLLM_KERNELS_CUDA_MLA_CONSUMER_CUH_
#define VLLM_KERNELS_CUDA_MLA_CONSUMER_CUH_

#include <cmath>
#include <cstdint>

#include "cuda/common/dtype.cuh"
#include "cuda/mla/storage.cuh"
#include "cuda/ptx/arithmetic.cuh"
#include "cuda/ptx/cvta.cuh"
#include "cuda/ptx/fence.cuh"
#include "cuda/ptx/named_barrier.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/smem_desc.cuh"

namespace vk::cuda::mla {

// Registers of a thread: scores of a stage, half of the output's columns.
constexpr int kScores = kKeys / 2, kOut = kLatent / kHalves / 2;
// Weights are so many powers of two larger than what they stand for: float8's least normal number
// is 2^-6, its largest 448.
template <class T>
constexpr float kWeightBits = kFloat8<T> ? 8.0f : 0.0f;

// A thread has two rows of the tile: its `half`s.
__device__ __forceinline__ int RowOf(int half) {
  return threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4 + 8 * half;
}

template <class T, int kGroup>
struct Consumer {
  float out[kOut];
  float maximum[2], sum[2];  // of both consumers' scores; of the own weights
  uint32_t weights[kSteps<T>][4];
  float scale;                     // of scores, for powers of two
  int32_t limits[2], least_limit;  // keys that a row sees, that all rows of the tile see
  SharedStorage<T>* storage;
  uint32_t query, keys;  // addresses

  __device__ __forceinline__ Consumer(SharedStorage<T>& shared, float scale_log2)
      : scale(scale_log2),
        storage(&shared),
        query(ptx::cvta_to_shared(shared.query)),
        keys(ptx::cvta_to_shared(shared.keys)) {
#pragma unroll
    for (int i = 0; i < kOut; ++i) out[i] = 0.0f;
#pragma unroll
    for (int half = 0; half < 2; ++half) maximum[half] = -INFINITY, sum[half] = 0.0f;
  }

  template <class Tile>
  __device__ __forceinline__ void SetLimits(const Problem& p, const Tile& tile, int32_t tile_keys) {
    limits[0] = limits[1] = least_limit = INT32_MAX;
    if (!p.causal) return;
    const auto limit = [&](int32_t row) {
      return tile_keys - (p.queries - 1 - (tile.first_row + row) / p.heads);
    };
    least_limit = limit(0);
#pragma unroll
    for (int half = 0; half < 2; ++half) limits[half] = limit(RowOf(half));
  }
  __device__ __forceinline__ uint32_t Panel(int stage, int panel) const {
    return keys + (stage * (kFloat8<T> ? kPanels8 : kPanels) + panel) * kPanelBytes;
  }

  // scores = queries . keys of a stage.
  __device__ __forceinline__ void Scores(float (&scores)[kScores], const Pipeline& pipeline,
                                         int stage, int phase) const {
    ptx::warpgroup_fence_operand(scores);
    pipeline.ConsumerWait({stage * kHalves, phase});
    ptx::wgmma_fence();
    const uint64_t queries = sm90::MakeSmemDesc<ptx::Major::kK>(query);
    const uint64_t stage_keys = sm90::MakeSmemDesc<ptx::Major::kK>(Panel(stage, 0));
#pragma unroll
    for (int step = 0; step < kHead * static_cast<int>(sizeof(T)) / 32; ++step) {
      if (!kFloat8<T> && step == kLatent / 32) {
        pipeline.ConsumerWait({stage * kHalves + 1, phase});
        ptx::wgmma_fence();
      }
      const uint32_t at = static_cast<uint32_t>(step / 4 * kPanelBytes + step % 4 * 32);
      ptx::wgmma_ss<T>(scores, sm90::AdvanceSmemDesc(queries, at),
                       sm90::AdvanceSmemDesc(stage_keys, at), step != 0);
    }
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>();
    ptx::warpgroup_fence_operand(scores);
  }

  // Scores of keys that are not valid, or that a row does not see, become -inf. Raises top[] to the
  // rows' maxima.
  __device__ __forceinline__ void Maxima(float (&scores)[kScores], int32_t pair,
                                         float (&top)[2]) const {
    const int t = threadIdx.x % 4;
    const uint32_t low = storage->valid[kGroup][0], high = storage->valid[kGroup][1];
    if ((low & high) != 0xffffffffu) {
#pragma unroll
      for (int i = 0; i < kScores; ++i) {
        const int key = i / 4 * 8 + i % 2;  // + 2 * t
        if (((key < 32 ? low : high) >> (key % 32 + 2 * t) & 1) == 0) scores[i] = -INFINITY;
      }
    }
    const int32_t first_key = pair * kPairKeys + kGroup * kKeys;
    if (first_key + kKeys > least_limit) {
#pragma unroll
      for (int i = 0; i < kScores; ++i) {
        if (first_key + i / 4 * 8 + i % 2 + 2 * t >= limits[i / 2 % 2]) scores[i] = -INFINITY;
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 2 * half; i < kScores; i += 4) {
        top[half] = fmaxf(top[half], fmaxf(scores[i], scores[i + 1]));
      }
      top[half] = fmaxf(top[half], __shfl_xor_sync(0xffffffffu, top[half], 1));
      top[half] = fmaxf(top[half], __shfl_xor_sync(0xffffffffu, top[half], 2));
    }
  }

  // Scores to weights relative to top[], whose sums over the thread's columns are returned.
  __device__ __forceinline__ void Weigh(float (&scores)[kScores], const float (&top)[2],
                                        float (&sums)[2]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float origin = WeightOrigin(top[half]);
      sums[half] = 0.0f;
#pragma unroll
      for (int i = 2 * half; i < kScores; i += 4) {
#pragma unroll
        for (int j = i; j < i + 2; ++j) {
          scores[j] = ptx::ex2_approx_ftz(fmaf(scores[j], scale, -origin));
          sums[half] += scores[j];
        }
      }
    }
  }
  __device__ __forceinline__ float Origin(float top) const {
    return top == -INFINITY ? 0.0f : top * scale;
  }
  __device__ __forceinline__ float WeightOrigin(float top) const {
    return Origin(top) - kWeightBits<T>;
  }
  // What is relative to `before` times this is relative to `after`.
  __device__ __forceinline__ float Factor(float before, float after) const {
    return ptx::ex2_approx_ftz(before * scale - Origin(after));
  }
  __device__ __forceinline__ void Rescale(const float (&factors)[2]) {
    // Most stages leave the maxima of a warp's rows as they are.
    if (!__any_sync(0xffffffffu, factors[0] != 1.0f || factors[1] != 1.0f)) return;
#pragma unroll
    for (int i = 0; i < kOut; ++i) out[i] *= factors[i / 2 % 2];
  }

  // Register i of an operand. Of float8 it has four neighbouring keys, the scores of a thread are
  // pairs eight keys apart: Transpose() puts values into the order that comes of it.
  __device__ __forceinline__ static uint32_t Operand(const float (&scores)[kScores], int step,
                                                     int i, const float (&factors)[2]) {
    const float factor = factors[i % 2];
    if constexpr (kFloat8<T>) {
      const int at = 16 * step + 8 * (i / 2) + 2 * (i % 2);
      return Float8Pair(scores[at] * factor, scores[at + 1] * factor) |
             Float8Pair(scores[at + 4] * factor, scores[at + 5] * factor) << 16;
    } else {
      const int at = 8 * step + 2 * i;
      return PackPair<T>(scores[at] * factor, scores[at + 1] * factor);
    }
  }
  __device__ __forceinline__ static uint32_t Float8Pair(float low, float high) {
    return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE, __NV_E4M3);
  }
  __device__ __forceinline__ void Round(const float (&scores)[kScores]) {
#pragma unroll
    for (int step = 0; step < kSteps<T>; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) weights[step][i] = Operand(scores, step, i, {1.0f, 1.0f});
    }
  }

  // Between the threads of the consumers that have the same rows.
  __device__ __forceinline__ void SendRows(const float (&values)[2]) const {
    if (threadIdx.x % 4 == 0) {
#pragma unroll
      for (int half = 0; half < 2; ++half) storage->rows[kGroup][RowOf(half)] = values[half];
    }
  }
  __device__ __forceinline__ void ReceiveRows(float (&values)[2]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) values[half] = storage->rows[1 - kGroup][RowOf(half)];
  }
  __device__ __forceinline__ void SendWeights(const float (&scores)[kScores],
                                              const float (&factors)[2]) const {
    auto& to = *static_cast<Weights<T>*>(storage->weights_of(kGroup));
#pragma unroll
    for (int step = 0; step < kSteps<T>; ++step) {
      to[step][threadIdx.x % 128] = {
          Operand(scores, step, 0, factors), Operand(scores, step, 1, factors),
          Operand(scores, step, 2, factors), Operand(scores, step, 3, factors)};
    }
  }
  __device__ __forceinline__ void ReceiveWeights(uint32_t (&to)[kSteps<T>][4]) const {
    const auto& from = *static_cast<const Weights<T>*>(storage->weights_of(1 - kGroup));
#pragma unroll
    for (int step = 0; step < kSteps<T>; ++step) {
      const uint4 four = from[step][threadIdx.x % 128];
      to[step][0] = four.x, to[step][1] = four.y, to[step][2] = four.z, to[step][3] = four.w;
    }
  }
  // Bulk copies of the next rope come after the weights that were received.
  __device__ __forceinline__ void FenceReceived() const {
    if constexpr (!kFloat8<T>) ptx::fence_proxy_async();
  }
  __device__ __forceinline__ void Arrive(NamedBarrier barrier) const {
    ptx::named_barrier_arrive(BarrierOf(barrier, kGroup), kConsumerThreads);
  }
  __device__ __forceinline__ void WaitForOther(NamedBarrier barrier) const {
    ptx::named_barrier_sync(BarrierOf(barrier, 1 - kGroup), kConsumerThreads);
  }

  // out += weights . values of a stage, in the consumer's columns; asynchronous. As kProducts
  // products beside each other.
  template <int kProducts>
  __device__ __forceinline__ void Values(const uint32_t (&of)[kSteps<T>][4],
                                         const Pipeline& pipeline, int stage, int phase) {
    if constexpr (kFloat8<T>) pipeline.ConsumerWait({stage * kHalves + 1, phase});
    ptx::warpgroup_fence_operand(out);
    ptx::wgmma_fence();
    constexpr int kPart = kOut / kProducts;
#pragma unroll
    for (int step = 0; step < kSteps<T>; ++step) {
#pragma unroll
      for (int part = 0; part < kProducts; ++part) {
        auto& of_part = reinterpret_cast<float (&)[kPart]>(out[part * kPart]);
        const uint64_t desc = ValuesDesc<kProducts>(stage, step, part);
        ptx::wgmma_rs<T, kFloat8<T> ? ptx::Major::kK : ptx::Major::kMn>(of_part, of[step], desc, 1);
      }
    }
    ptx::wgmma_commit_group();
  }

  // The lane's warp reads a half of a stage no more: once it has the maxima of its own stage, once
  // it has the other's weights, once it has multiplied with the values of a stage.
  __device__ __forceinline__ void ReleaseScored(const Pipeline& pipeline) const {
    if constexpr (kFloat8<T>) Release(pipeline, kGroup, 0);
  }
  __device__ __forceinline__ void ReleaseReceived(const Pipeline& pipeline) const {
    if constexpr (!kFloat8<T> && kGroup == 0) Release(pipeline, 1, 1);
  }
  __device__ __forceinline__ void ReleaseValues(const Pipeline& pipeline, int stage) const {
    Release(pipeline, stage, kFloat8<T> ? 1 : kGroup);
  }

 private:
  // Of a part of the consumer's columns, and the keys of a step.
  template <int kProducts>
  __device__ __forceinline__ uint64_t ValuesDesc(int stage, int step, int part) const {
    constexpr int kColumns = kLatent / kHalves / kProducts;
    if constexpr (kFloat8<T>) {
      const uint32_t values = ptx::cvta_to_shared(storage->values[kGroup * (kLatent / kHalves)]);
      return sm90::AdvanceSmemDesc(sm90::MakeSmemDesc<ptx::Major::kK>(values),
                                   part * kColumns * 128 + stage * kKeys + step * 32);
    } else {
      const uint32_t values = Panel(stage, kGroup * kHalfPanels);
      return sm90::AdvanceSmemDesc(sm90::MakeSmemDesc<ptx::Major::kMn, kPanelBytes>(values),
                                   part * (kColumns / 64) * kPanelBytes + step * 16 * 128);
    }
  }
  __device__ __forceinline__ void Release(const Pipeline& pipeline, int stage, int half) const {
    if (threadIdx.x % 32 == 0) pipeline.ConsumerRelease(stage * kHalves + half);
  }
};

}  // namespace vk::cuda::mla
#endif  // VLLM_KERNELS_CUDA_MLA_CONSUMER_CUH_
