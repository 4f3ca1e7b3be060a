// Gathers keys into shared memory.
#ifndef VLLM_KERNELS_CUDA_MLA_PRODUCER_CUH_
#define VLLM_KERNELS_CUDA_MLA_PRODUCER_CUH_

#include <cuda.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "cuda/common/dtype.cuh"
#include "cuda/mla/problem.h"
#include "cuda/mla/storage.cuh"
#include "cuda/ptx/cp_async.cuh"
#include "cuda/ptx/cvt.cuh"
#include "cuda/ptx/cvta.cuh"
#include "cuda/ptx/fence.cuh"
#include "cuda/ptx/tma.cuh"

namespace vk::cuda::mla {

// Producers' warps are kTeams, which take stages in turn. Keys of a stage that a warp of one
// gathers, a lane each:
template <class Producer>
constexpr int kWarpKeys = kKeys * Producer::kTeams / Producer::kWarps;

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

// Copies 16-bit keys: a group of copies a half. Eight lanes have one key.
struct CopyProducer {
  static constexpr bool kAsynchronous = true;
  static constexpr int kWarps = 4, kTeams = 2, kRegisters = 56, kConsumerRegisters = 224;

  __device__ __forceinline__ void Start(const Problem&, const Selected&) {}

  // Columns 256 * half to 256 * half + 255; the rope with the second half.
  template <int kHalf>
  __device__ __forceinline__ void Fill(const Problem& p, const Selected& keys, const Selected&,
                                       const Target& target) const {
    constexpr int kFirst = kHalf * kHalfPanels;
    Copy<kWarpKeys<CopyProducer>, kFirst, kHalf == 0 ? kHalfPanels : kPanels>(p, keys, target,
                                                                              kFirst * 128);
    ptx::cp_async_commit_group();
  }

  // Panels kFirst to kLast - 1, from byte `from` of each key on.
  template <int kKeysOfWarp, int kFirst, int kLast>
  __device__ __forceinline__ static void Copy(const Problem& p, const Selected& keys,
                                              const Target& target, int from) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int first = 0; first < kKeysOfWarp; first += 4) {
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
  // All warps convert one stage while the consumers are at the other.
  static constexpr int kWarps = 8, kTeams = 1, kRegisters = 48, kConsumerRegisters = 208;
  static_assert(kKeys / kWarps == 8, "four lanes of a warp have a key");

  uint4 raw[kHalfPanels];  // of the half that is converted next
  float4 scales;           // of the lane's key

  __device__ __forceinline__ void Start(const Problem& p, const Selected& keys) {
    const Half half(p, keys, 0);
#pragma unroll
    for (int panel = 0; panel < kHalfPanels; ++panel) raw[panel] = half.Read(panel);
    ReadScales(p, keys);
  }

  template <int kHalf>
  __device__ __forceinline__ void Fill(const Problem& p, const Selected& keys, const Selected& next,
                                       const Target& target) {
    if constexpr (kHalf == 1) {
      CopyProducer::Copy<kWarpKeys<DequantizeProducer>, kPanels - 1, kPanels>(
          p, keys, target, kQuantizedKeyBytes - 2 * kRope);
      ptx::cp_async_commit_group();
    }
    const int lane = threadIdx.x % 32, key = lane / 4, chunk = lane % 4;
    const float2 mine =
        kHalf == 0 ? make_float2(scales.x, scales.y) : make_float2(scales.z, scales.w);
    if constexpr (kHalf == 1) ReadScales(p, next);
    const float low = __shfl_sync(0xffffffffu, mine.x, key);
    const float high = __shfl_sync(0xffffffffu, mine.y, key);
    const Half after(p, kHalf == 0 ? keys : next, 1 - kHalf);
    char* to = target.Panel(kHalf * kHalfPanels);
    const int left = Swizzled(target.first_row + key, 2 * chunk);
    const int right = Swizzled(target.first_row + key, 2 * chunk + 1);
#pragma unroll
    for (int panel = 0; panel < kHalfPanels; ++panel) {
      const float scale = panel < kHalfPanels / 2 ? low : high;
      const uint4& values = raw[panel];
      *reinterpret_cast<uint4*>(to + panel * kPanelBytes + left) =
          Dequantize(values.x, values.y, scale);
      *reinterpret_cast<uint4*>(to + panel * kPanelBytes + right) =
          Dequantize(values.z, values.w, scale);
    }
    // Not before: the fence that follows waits for what is read.
#pragma unroll
    for (int panel = 0; panel < kHalfPanels; ++panel) raw[panel] = after.Read(panel);
  }

 private:
  // What a lane reads of a half of its key.
  struct Half {
    const uint4* source;
    bool valid;

    __device__ __forceinline__ Half(const Problem& p, const Selected& keys, int half) {
      const int lane = threadIdx.x % 32;
      source = reinterpret_cast<const uint4*>(keys.Of(p, lane / 4) + half * 256) + lane % 4;
      valid = keys.Valid(lane / 4);
    }
    __device__ __forceinline__ uint4 Read(int panel) const {
      return valid ? __ldg(source + panel * 4) : make_uint4(0, 0, 0, 0);
    }
  };
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

// The warps of one stage.
template <class Producer>
struct StageProducer {
  const Problem& p;
  SharedStorage16& storage;
  const Pipeline& pipeline;
  const CUtensorMap& map;
  static constexpr int kTeams = Producer::kTeams, kParts = Producer::kWarps / kTeams;
  static constexpr int kWarpKeys = mla::kWarpKeys<Producer>;
  int stage = static_cast<int>(threadIdx.x) / 32 / kParts, part = threadIdx.x / 32 % kParts;
  int lane = threadIdx.x % 32;
  int phase = 0;

  __device__ __forceinline__ Target target() const {
    return {storage.keys[stage][0], part * kWarpKeys};
  }
  __device__ __forceinline__ void Acquire(int half) const {
    pipeline.ProducerAcquire({stage * kHalves + half, phase});
  }
  __device__ __forceinline__ void Arrive(int half) const {
    ptx::fence_proxy_async();
    __syncwarp();
    if (lane == 0) pipeline.ProducerArrive(stage * kHalves + half);
  }

  __device__ __forceinline__ void SetValid(uint32_t bits) const {
    static_assert(kWarpKeys == 32 || kWarpKeys == 8, "of which there is a type");
    using Bits = std::conditional_t<kWarpKeys == 32, uint32_t, uint8_t>;
    reinterpret_cast<Bits*>(storage.valid[stage])[part] = static_cast<Bits>(bits);
  }

  // A stage of keys, `next` being those of the next turn.
  __device__ __forceinline__ void Gather(Producer& producer, const Selected& keys,
                                         const Selected& next) const {
    Acquire(0);
    if (lane == 0) SetValid(keys.valid);
    producer.template Fill<0>(p, keys, next, target());
    if constexpr (!Producer::kAsynchronous) Arrive(0);
    Acquire(1);
    producer.template Fill<1>(p, keys, next, target());
    if constexpr (Producer::kAsynchronous) {
      ptx::cp_async_wait_group<1>();
      Arrive(0);
    }
    ptx::cp_async_wait_group<0>();
    Arrive(1);
  }

  // Asks for the warp's keys, which lie anywhere, a turn before they are read.
  __device__ __forceinline__ void Ask(const Selected& keys) const {
    if (keys.Valid(lane)) {
      ptx::bulk_prefetch_l2(p.cache + uint64_t{keys.place} * 16, kQuantizedKeyBytes);
    }
  }

  // Neighbouring slots from `slot` on, by bulk tensor copies of one thread.
  __device__ __forceinline__ void Load(int32_t slot) const {
    static_assert(kParts == 2);
    const int32_t block = slot >> p.block_shift, in_block = slot - (block << p.block_shift);
    const uint32_t keys = ptx::cvta_to_shared(target().stage);
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      const int first = half * kHalfPanels, last = half == 0 ? kHalfPanels : kPanels;
      Acquire(half);
      if (lane != 0) continue;
      if (half == 0) SetValid(0xffffffffu);
      const int at = stage * kHalves + half;
      if (part == 1) {
        pipeline.ProducerArrive(at);
        continue;
      }
      pipeline.ProducerCommit({at, phase}, (last - first) * kPanelBytes);
#pragma unroll
      for (int panel = first; panel < last; ++panel) {
        ptx::tma_load_3d(keys + panel * kPanelBytes, &map, pipeline.full(at), panel * 64, in_block,
                         block);
      }
    }
    __syncwarp();
  }

  // Pairs of stages of a tile's keys, whose slots `slot_of(key)` knows (-1: none). Stages whose
  // keys are neighbours are loaded as a whole, if there are such keys.
  template <class SlotOf>
  __device__ __forceinline__ void Produce(const SlotOf& slot_of, int32_t first_pair,
                                          int32_t last_pair) {
    // Slots are read two turns ahead of their keys, keys that are converted half a turn.
    const int32_t last = kStages * last_pair;
    const auto read = [&](int32_t turn) {
      if (turn >= last || lane >= kWarpKeys) return -1;
      return slot_of(turn * kKeys + part * kWarpKeys + lane);
    };
    if (first_pair >= last_pair) return;
    int32_t turn = kStages * first_pair + stage;
    const int32_t first = read(turn);
    int32_t slot = read(turn + kTeams);
    Selected keys = Select(p, first);
    if constexpr (!Producer::kAsynchronous) Ask(keys);
    Producer producer;
    producer.Start(p, keys);
#pragma unroll 1
    for (; turn < last; turn += kTeams) {
      const Selected next = Select(p, slot);
      slot = read(turn + 2 * kTeams);
      if constexpr (!Producer::kAsynchronous) Ask(next);
      Gather(producer, keys, next);
      keys = next;
      stage += kTeams;
      if (stage < kStages) continue;
      stage -= kStages;
      phase ^= 1;
    }
  }
  template <class SlotOf>
  __device__ __forceinline__ void ProduceBlocks(const SlotOf& slot_of, int32_t keys,
                                                int32_t first_pair, int32_t last_pair) {
    // The slot of the stage's first key is read one pair ahead.
    const auto first_key = [&](int32_t pair) { return pair * kPairKeys + stage * kKeys; };
    int32_t next = first_pair < last_pair ? slot_of(first_key(first_pair)) : -1;
    Producer producer;
#pragma unroll 1
    for (int32_t pair = first_pair; pair < last_pair; ++pair, phase ^= 1) {
      const int32_t slot = next, first = first_key(pair);
      if (pair + 1 < last_pair) next = slot_of(first_key(pair + 1));
      if (slot >= 0 && first + kKeys <= keys && p.whole_stages) {
        Load(slot);
      } else {
        const Selected selected = Select(p, slot_of(first + part * kWarpKeys + lane));
        Gather(producer, selected, selected);
      }
    }
  }
};

}  // namespace vk::cuda::mla
#endif  // VLLM_KERNELS_CUDA_MLA_PRODUCER_CUH_
