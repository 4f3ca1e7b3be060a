// What a consumer warpgroup of the Hopper prefill kernel computes.
#ifndef VLLM_KERNELS_CUDA_ATTENTION_HOPPER_CONSUMER_CUH_
#define VLLM_KERNELS_CUDA_ATTENTION_HOPPER_CONSUMER_CUH_

#include <cstdint>

#include "cuda/attention/hopper_storage.cuh"
#include "cuda/attention/request.cuh"
#include "cuda/common/dtype.cuh"
#include "cuda/ptx/arithmetic.cuh"
#include "cuda/ptx/fence.cuh"
#include "cuda/ptx/named_barrier.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/smem_desc.cuh"

namespace vk::cuda::attention {

template <class T, int kHead, bool kExtras>
struct HopperConsumer {
  using Traits = HopperTraits<kHead>;
  static constexpr int kKeys = Traits::kKeys;
  static constexpr int kScores = kKeys / 2, kOut = kHead / 2;
  static constexpr float kLittle = 8.0f;  // of a maximum's growth; of base-2 logits
  // What a thread's weights of a row and tile may add up to before the row's maximum is looked for.
  // So few are added that it has then grown by more than kLittle; and float16 holds them.
  static constexpr float kLarge = 16384.0f;
  static_assert(kKeys / 4 * (1 << static_cast<int>(kLittle)) < static_cast<int>(kLarge));

  float out[kOut];
  // Of a row's logits: the largest, or one that is less by so little that weights, which are
  // relative to it, are at most 2^kLittle, or kLarge by Weights().
  float maximum[2];
  float sum[2];    // of weights
  float added[2];  // of those of the last tile, by Weights()
  RowMask masks[2];
  Logits logits;
  uint32_t limits[2];  // the bits of kLarge; more than any float's for rows that nobody reads

  // Descriptors of the first columns of queries and keys, and of the first values.
  __device__ __forceinline__ static uint64_t Rows(uint32_t address) {
    return sm90::MakeSmemDesc<ptx::Major::kK>(address);
  }
  __device__ __forceinline__ static uint64_t ValueRows(uint32_t address) {
    return sm90::MakeSmemDesc<ptx::Major::kMn, Traits::kKeyPanel>(address);
  }

  // scores = queries . keys of a tile; asynchronous, a group of its own.
  __device__ __forceinline__ static void Scores(float (&scores)[kScores], uint64_t query,
                                                uint64_t keys) {
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < kHead / 16; ++step) {
      const int panel = step / 4, column = step % 4 * 32;
      ptx::wgmma_ss<T>(scores, sm90::AdvanceSmemDesc(query, panel * Traits::kQueryPanel + column),
                       sm90::AdvanceSmemDesc(keys, panel * Traits::kKeyPanel + column), step != 0);
    }
    ptx::wgmma_commit_group();
  }

  // out += weights . values of a tile's keys [16 * begin, 16 * end); asynchronous.
  __device__ __forceinline__ void Values(const uint32_t (&weights)[kKeys / 16][4], uint64_t values,
                                         int begin, int end) {
#pragma unroll
    for (int step = begin; step < end; ++step) {
      ptx::wgmma_rs<T, ptx::Major::kMn>(out, weights[step],
                                        sm90::AdvanceSmemDesc(values, step * 16 * 128), 1);
    }
  }

  // Scores to probabilities; returns what the output so far has to be multiplied with. `all`: keys
  // that all rows see.
  __device__ __forceinline__ void Softmax(float (&scores)[kScores], float (&factors)[2],
                                          int32_t first_key, const KeyRange& all) {
    const int t = threadIdx.x & 3;
    const bool begins = first_key<all.begin, ends = first_key + kKeys> all.end;
    if constexpr (kExtras) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        ToLogits<kScores / 2>(
            logits, masks[half], begins || ends,
            [&](int i) -> float& { return scores[i / 2 * 4 + 2 * half + i % 2]; },
            [&](int i) { return first_key + i / 2 * 8 + 2 * t + i % 2; });
      }
    } else {
      // Mostly one of the two. Keys are counted from the thread's first one, so that each is a
      // constant of the comparison.
      const auto hide = [&](const auto& hidden) {
#pragma unroll
        for (int i = 0; i < kScores; ++i) {
          if (hidden(i / 2 % 2, i / 4 * 8 + i % 2)) scores[i] = -INFINITY;
        }
      };
      const int32_t first = first_key + 2 * t;
      if (begins) {
        const int32_t low[2] = {masks[0].low - first, masks[1].low - first};
        hide([&](int half, int key) { return key < low[half]; });
      }
      if (ends) {
        const int32_t high[2] = {masks[0].high - first, masks[1].high - first};
        hide([&](int half, int key) { return key > high[half]; });
      }
    }
    const float scale = kExtras ? 1.0f : logits.scale;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = maximum[half];
#pragma unroll
      for (int i = 0; i < kScores; i += 4) {
        top = fmaxf(top, fmaxf(scores[i + 2 * half], scores[i + 2 * half + 1]));
      }
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
      // A maximum that grew little stays: weights are then larger than 1, and hardly any tile has
      // its results so far multiplied. (NaN, of none before and none now, is no growth.)
      const bool grows = (top - maximum[half]) * scale > kLittle;
      factors[half] = grows ? ptx::ex2_approx_ftz((maximum[half] - top) * scale) : 1.0f;
      if (grows) maximum[half] = top;
      const float origin = maximum[half] == -INFINITY ? 0.0f : maximum[half] * scale;
      sum[half] = sum[half] * factors[half] + ToWeights(scores, half, scale, origin);
    }
  }

  // Whether Softmax() has to hide keys of the tile from some rows.
  __device__ __forceinline__ static bool Masked(int32_t first_key, const KeyRange& all) {
    return first_key < all.begin || first_key + kKeys > all.end;
  }

  // Softmax() of a tile that all rows see whole, without its wait for the maxima: weights are
  // relative to those so far. Returns whether a row's became too large for that, or are none
  // because it has no maximum yet: Softmax() is then to be given the scores once more.
  __device__ __forceinline__ bool Weights(float (&scores)[kScores]) {
    static_assert(!kExtras, "scores are logits but for their scale");
    bool large = false;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float origin = maximum[half] * logits.scale;
      added[half] = ToWeights(scores, half, logits.scale, origin);
      // As bits, infinity and NaN are large too.
      large = large || __float_as_uint(added[half]) > limits[half];
    }
    return large;
  }

  __device__ __forceinline__ static void Round(const float (&scores)[kScores],
                                               uint32_t (&weights)[kKeys / 16][4]) {
#pragma unroll
    for (int i = 0; i < kKeys / 16; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        weights[i][j] = PackPair<T>(scores[8 * i + 2 * j], scores[8 * i + 2 * j + 1]);
      }
    }
  }

  __device__ __forceinline__ void Rescale(const float (&factors)[2]) {
#pragma unroll
    for (int i = 0; i < kOut; ++i) out[i] *= factors[i / 2 % 2];
  }

 private:
  // Of a row, relative to a maximum; returns the sum of its weights.
  __device__ __forceinline__ static float ToWeights(float (&scores)[kScores], int half, float scale,
                                                    float origin) {
    float total = 0.0f;
#pragma unroll
    for (int i = 2 * half; i < kScores; i += 4) {
      scores[i] = ptx::ex2_approx_ftz(fmaf(scores[i], scale, -origin));
      scores[i + 1] = ptx::ex2_approx_ftz(fmaf(scores[i + 1], scale, -origin));
      total += scores[i] + scores[i + 1];
    }
    return total;
  }
};

// Zeroes the values of keys outside of `range`: they may be anything, and 0 x NaN is not 0. Both
// warpgroups do so on their own, before they read the values.
template <int kHead>
__device__ __forceinline__ void ZeroValues(char* values, int32_t first_key, KeyRange range,
                                           int group) {
  using Traits = HopperTraits<kHead>;
  const int thread = threadIdx.x % 128;
  for (int index = thread; index < Traits::kTileBytes / 16; index += 128) {
    const int32_t key = first_key + index / 8 % Traits::kKeys;
    if (key < range.begin || key >= range.end) {
      reinterpret_cast<uint4*>(values)[index] = make_uint4(0, 0, 0, 0);
    }
  }
  ptx::fence_proxy_async();
  ptx::named_barrier_sync(BarrierOf(NamedBarrier::kWarpgroup, group), 128);
}

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_CUDA_ATTENTION_HOPPER_CONSUMER_CUH_
