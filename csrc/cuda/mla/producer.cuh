// Gathers keys into shared memory. Each stage has two warps of its own.
#ifndef VLLM_KERNELS_CUDA_MLA_PRODUCER_CUH_
#define VLLM_KERNELS_CUDA_MLA_PRODUCER_CUH_

#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/common/dtype.cuh"
#include "cuda/mla/problem.h"
#include "cuda/mla/storage.cuh"
#include "cuda/ptx/cp_async.cuh"
#include "cuda/ptx/cvt.cuh"
#include "cuda/ptx/fence.cuh"

namespace vk::cuda::mla {

constexpr int kWarpKeys = 32;  // of a stage, a lane each

// The keys that a warp gathers for one stage.
struct Selected {
  uint32_t place;  // of the lane's key in the cache, in units of 16 bytes; 0 if it is not valid
  uint32_t valid;  // a bit a lane

  __device__ __forceinline__ const char* Of(const Problem& p, int key) const {
    return p.cache + uint64_t{__shfl_sync(0xffffffffu, place, key)} * 16;
  }
  __device__ __forceinline__ bool Valid(int key) const { return valid >> key & 1; }
};

__device__ __forceinline__ Selected Select(const Problem& p, int32_t index) {
  const bool valid = index >= 0 && index < p.slots;
  const uint32_t slot = valid ? static_cast<uint32_t>(index) : 0;
  const uint32_t block = slot >> p.block_shift;
  return {block * p.block_stride + (slot - (block << p.block_shift)) * p.slot_stride,
          __ballot_sync(0xffffffffu, valid)};
}

// Where 16 bytes of a row are in its panel.
__device__ __forceinline__ int Swizzled(int row, int chunk) {
  return row * 128 + ((chunk ^ (row & 7)) << 4);
}

// Rows of the stage that a warp gathers, and the panels of a half.
struct Target {
  char* stage;
  int first_row;

  __device__ __forceinline__ char* Panel(int panel) const { return stage + panel * kPanelBytes; }
};

// Copies bfloat16 keys: a group of copies a half. Eight lanes have one key.
struct CopyProducer {
  static constexpr bool kAsynchronous = true;
  static constexpr int kRegisters = 56, kConsumerRegisters = 224;

  __device__ __forceinline__ void Start(const Problem&, const Selected&) {}

  // Columns 256 * half to 256 * half + 255; the rope with the second half.
  template <int kHalf>
  __device__ __forceinline__ void Fill(const Problem& p, const Selected& keys, const Selected&,
                                       const Target& target) const {
    constexpr int kFirst = kHalf * kHalfPanels;
    Copy<kFirst, kHalf == 0 ? kHalfPanels : kPanels>(p, keys, target, kFirst * 128);
    ptx::cp_async_commit_group();
  }

  // Panels kFirst to kLast - 1, from byte `from` of each key on.
  template <int kFirst, int kLast>
  __device__ __forceinline__ static void Copy(const Problem& p, const Selected& keys,
                                              const Target& target, int from) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int first = 0; first < kWarpKeys; first += 4) {
      const int key = first + lane / 8;
      const char* source = keys.Of(p, key) + from + lane % 8 * 16;
      const bool valid = keys.Valid(key);
      char* row = target.Panel(kFirst) + Swizzled(target.first_row + key, lane % 8);
#pragma unroll
      for (int panel = 0; panel < kLast - kFirst; ++panel) {
        ptx::cp_async_cg(row + panel * kPanelBytes, source + panel * 128, valid);
      }
    }
  }
};

// Converts keys of the quantised cache to bfloat16; only the rope is copied. Four lanes have one
// key: eight store to four chunks of two neighbouring rows, no two to the same banks.
struct DequantizeProducer {
  static constexpr bool kAsynchronous = false;
  static constexpr int kRegisters = 88, kConsumerRegisters = 208;
  static constexpr int kGroups = kWarpKeys / 8;  // of eight keys, in a half
  static constexpr int kAhead = 2;               // groups that are read before they are wanted

  uint4 raw[kAhead][kHalfPanels];
  float4 scales;  // of the lane's key

  __device__ __forceinline__ void Start(const Problem& p, const Selected& keys) {
#pragma unroll
    for (int group = 0; group < kAhead; ++group) Read(p, keys, 0, group);
    ReadScales(p, keys);
  }

  template <int kHalf>
  __device__ __forceinline__ void Fill(const Problem& p, const Selected& keys, const Selected& next,
                                       const Target& target) {
    if constexpr (kHalf == 1) {
      CopyProducer::Copy<kPanels - 1, kPanels>(p, keys, target, kQuantizedKeyBytes - 2 * kRope);
      ptx::cp_async_commit_group();
    }
    const int lane = threadIdx.x % 32, chunk = lane % 4;
    const float2 mine =
        kHalf == 0 ? make_float2(scales.x, scales.y) : make_float2(scales.z, scales.w);
    if constexpr (kHalf == 1) ReadScales(p, next);
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      const int key = group * 8 + lane / 4, row = target.first_row + key;
      const float low = __shfl_sync(0xffffffffu, mine.x, key);
      const float high = __shfl_sync(0xffffffffu, mine.y, key);
#pragma unroll
      for (int panel = 0; panel < kHalfPanels; ++panel) {
        const uint4& values = raw[group % kAhead][panel];
        const float scale = panel < kHalfPanels / 2 ? low : high;
        char* to = target.Panel(kHalf * kHalfPanels + panel);
        *reinterpret_cast<uint4*>(to + Swizzled(row, 2 * chunk)) =
            Dequantize(values.x, values.y, scale);
        *reinterpret_cast<uint4*>(to + Swizzled(row, 2 * chunk + 1)) =
            Dequantize(values.z, values.w, scale);
      }
      const int ahead = group + kAhead;
      if (ahead < kGroups) {
        Read(p, keys, kHalf, ahead);
      } else {
        Read(p, kHalf == 0 ? keys : next, 1 - kHalf, ahead - kGroups);
      }
    }
  }

 private:
  __device__ __forceinline__ void Read(const Problem& p, const Selected& keys, int half,
                                       int group) {
    const int lane = threadIdx.x % 32, key = group * 8 + lane / 4;
    const uint4* source = reinterpret_cast<const uint4*>(keys.Of(p, key) + half * 256) + lane % 4;
#pragma unroll
    for (int panel = 0; panel < kHalfPanels; ++panel) {
      raw[group % kAhead][panel] =
          keys.Valid(key) ? __ldg(source + panel * 4) : make_uint4(0, 0, 0, 0);
    }
  }
  __device__ __forceinline__ void ReadScales(const Problem& p, const Selected& keys) {
    const char* key = p.cache + uint64_t{keys.place} * 16;
    scales = keys.Valid(threadIdx.x % 32) ? __ldg(reinterpret_cast<const float4*>(key + kLatent))
                                          : make_float4(0, 0, 0, 0);
  }

  __device__ __forceinline__ static uint32_t DequantizePair(uint16_t pair, float scale) {
    const uint32_t halves = ptx::cvt_rn_f16x2_e4m3x2(pair);
    const float2 values = __half22float2(BitCast<__half2>(halves));
    return PackPair<BFloat16>(values.x * scale, values.y * scale);
  }
  __device__ __forceinline__ static uint4 Dequantize(uint32_t low, uint32_t high, float scale) {
    return {DequantizePair(static_cast<uint16_t>(low), scale),
            DequantizePair(static_cast<uint16_t>(low >> 16), scale),
            DequantizePair(static_cast<uint16_t>(high), scale),
            DequantizePair(static_cast<uint16_t>(high >> 16), scale)};
  }
};

// Some pairs of stages of a tile's keys, whose slots `slot_of(key)` knows (-1: none).
template <class Producer, class SlotOf>
__device__ __forceinline__ void Produce(const Problem& p, SharedStorage& storage,
                                        const Pipeline& pipeline, const SlotOf& slot_of,
                                        int32_t first_pair, int32_t last_pair, int& phase) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int stage = warp / 2, part = warp % 2;
  const Target target = {storage.keys[stage][0], part * kWarpKeys};
  const auto arrive = [&](int half) {
    ptx::fence_proxy_async();
    __syncwarp();
    if (lane == 0) pipeline.ProducerArrive(stage * kHalves + half);
  };
  // Slots are read two pairs ahead of their keys, keys that are converted half a pair.
  const auto read = [&](int32_t pair) {
    if (pair >= last_pair) return -1;
    return slot_of(pair * kPairKeys + stage * kKeys + target.first_row + lane);
  };
  if (first_pair >= last_pair) return;
  Selected keys = Select(p, read(first_pair));
  int32_t slot = read(first_pair + 1);
  Producer producer;
  producer.Start(p, keys);
#pragma unroll 1
  for (int32_t pair = first_pair; pair < last_pair; ++pair, phase ^= 1) {
    const Selected next = Select(p, slot);
    slot = read(pair + 2);
    pipeline.ProducerAcquire({stage * kHalves, phase});
    if (lane == 0) storage.valid[stage][part] = keys.valid;
    producer.template Fill<0>(p, keys, next, target);
    if constexpr (!Producer::kAsynchronous) arrive(0);
    pipeline.ProducerAcquire({stage * kHalves + 1, phase});
    producer.template Fill<1>(p, keys, next, target);
    if constexpr (Producer::kAsynchronous) {
      ptx::cp_async_wait_group<1>();
      arrive(0);
    }
    ptx::cp_async_wait_group<0>();
    arrive(1);
    keys = next;
  }
}

}  // namespace vk::cuda::mla
#endif  // VLLM_KERNELS_CUDA_MLA_PRODUCER_CUH_
