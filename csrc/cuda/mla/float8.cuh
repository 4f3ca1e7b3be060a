// Loads keys of float8 e4m3, and transposes their values. Each stage has two warps of its own.
#ifndef VLLM_KERNELS_CUDA_MLA_FLOAT8_CUH_
#define VLLM_KERNELS_CUDA_MLA_FLOAT8_CUH_

#include <cuda.h>

#include <cstdint>

#include "cuda/mla/problem.h"
#include "cuda/mla/producer.cuh"
#include "cuda/mla/storage.cuh"
#include "cuda/ptx/cp_async.cuh"
#include "cuda/ptx/cvta.cuh"
#include "cuda/ptx/fence.cuh"
#include "cuda/ptx/ldmatrix.cuh"
#include "cuda/ptx/tma.cuh"

namespace vk::cuda::mla {

struct Float8Producer {
  static constexpr int kWarps = 4, kTeams = 2, kRegisters = 56, kConsumerRegisters = 224;
  static constexpr int kParts = kWarps / kTeams, kWarpKeys = kKeys / kParts;
  static_assert(kWarpKeys == 32, "a lane has a key, and a part a word of bits");

  const Problem& p;
  SharedStorage8& storage;
  const Pipeline& pipeline;
  const CUtensorMap& map;
  int stage = static_cast<int>(threadIdx.x) / 32 / kParts, part = threadIdx.x / 32 % kParts;
  int lane = threadIdx.x % 32;
  int phase = 0;

  // Pairs of stages of a tile's keys, whose slots `slot_of(key)` knows (-1: none).
  template <class SlotOf>
  __device__ __forceinline__ void ProduceBlocks(const SlotOf& slot_of, int32_t keys,
                                                int32_t first_pair, int32_t last_pair) {
    // The slot of the stage's first key is read one pair ahead.
    const auto first_key = [&](int32_t pair) { return pair * kPairKeys + stage * kKeys; };
    int32_t next = first_pair < last_pair ? slot_of(first_key(first_pair)) : -1;
#pragma unroll 1
    for (int32_t pair = first_pair; pair < last_pair; ++pair, phase ^= 1) {
      const int32_t slot = next, first = first_key(pair);
      if (pair + 1 < last_pair) next = slot_of(first_key(pair + 1));
      pipeline.ProducerAcquire({at(0), phase});
      if (slot >= 0 && first + kKeys <= keys && p.whole_stages) {
        Load(slot);
      } else {
        Gather(Select(p, slot_of(first + part * kWarpKeys + lane)));
      }
      pipeline.ConsumerWait({at(0), phase});
      if (part == 1 && lane == 0 && p.whole_stages && pair + 1 < last_pair &&
          first_key(pair + 1) + kKeys <= keys) {
        Ask(next);
      }
      pipeline.ProducerAcquire({at(1), phase});
      Transpose();
      ptx::fence_proxy_async();
      __syncwarp();
      if (lane != 0) continue;
      pipeline.ConsumerRelease(at(0));
      pipeline.ProducerArrive(at(1));
    }
  }

 private:
  __device__ __forceinline__ int at(int half) const { return stage * kHalves + half; }

  // Neighbouring slots from `slot` on, by bulk tensor copies of one thread.
  __device__ __forceinline__ void Load(int32_t slot) const {
    if (lane == 0) {
      storage.valid[stage][part] = 0xffffffffu;
      if (part == 1) {
        pipeline.ProducerArrive(at(0));
      } else {
        const int32_t block = slot >> p.block_shift, in_block = slot - (block << p.block_shift);
        const uint32_t keys = ptx::cvta_to_shared(storage.keys[stage]);
        pipeline.ProducerCommit({at(0), phase}, kPanels8 * kPanelBytes);
#pragma unroll
        for (int panel = 0; panel < kPanels8; ++panel) {
          ptx::tma_load_3d(keys + panel * kPanelBytes, &map, pipeline.full(at(0)), panel * 128,
                           in_block, block);
        }
      }
    }
    __syncwarp();
  }

  // Asks for the keys of a stage from `slot` on ahead of their load, if they lie together; one
  // thread, of one of the tiles that read them.
  __device__ __forceinline__ void Ask(int32_t slot) const {
    if (slot < 0 || blockIdx.x != 0 || p.slot_stride != kHead / 16) return;
    const uint32_t block = static_cast<uint32_t>(slot) >> p.block_shift;
    const uint32_t in_block = static_cast<uint32_t>(slot) - (block << p.block_shift);
    const uint64_t place = uint64_t{block} * p.block_stride + in_block * p.slot_stride;
    ptx::bulk_prefetch_l2(p.cache + place * 16, kKeys * kHead);
  }

  // Eight lanes have one key.
  __device__ __forceinline__ void Gather(const Selected& keys) const {
    if (lane == 0) storage.valid[stage][part] = keys.valid;
#pragma unroll 2
    for (int first = 0; first < kWarpKeys; first += 4) {
      const int key = first + lane / 8;
      const char* source = keys.Of(p, key) + lane % 8 * 16;
      const bool valid = keys.Valid(key);
      char* row = storage.keys[stage][0] + Swizzled(part * kWarpKeys + key, lane % 8);
#pragma unroll
      for (int panel = 0; panel < kPanels8; ++panel) {
        if (panel * 128 + lane % 8 * 16 >= kHead) break;
        ptx::cp_async_cg(row + panel * kPanelBytes, source + panel * 128, valid);
      }
    }
    ptx::cp_async_commit_group();
    ptx::cp_async_wait_group<0>();
    ptx::fence_proxy_async();
    __syncwarp();
    if (lane == 0) pipeline.ProducerArrive(at(0));
  }

  // The warp's keys, 16 at once, become neighbours: the first of four has the keys 2 i and
  // 2 i + 1, the others 2 i + 8 and 2 i + 9, as Operand() has them. Matrices of 16-bit elements
  // are transposed; their two columns come apart between registers. Of the eight rows that are
  // stored at once four are even and four odd columns, no two in the same banks.
  __device__ __forceinline__ void Transpose() const {
    const uint32_t keys = ptx::cvta_to_shared(storage.keys[stage]);
    const uint32_t values = ptx::cvta_to_shared(storage.values);
    const int matrix = lane / 8, row = lane % 8;
    const uint32_t first = lane < 16 ? 0x6420 : 0x7531, second = lane < 16 ? 0x7531 : 0x6420;
    const int column = 16 * (matrix / 2) + 2 * row + ((row >= 4) ^ (matrix % 2));
#pragma unroll
    for (int group = 0; group < kWarpKeys / 16; ++group) {
      const int key = part * kWarpKeys + group * 16 + matrix % 2 * 8 + row;
      const int to = (stage * kKeys + part * kWarpKeys) / 16 + group;
      const uint32_t out = values + static_cast<uint32_t>(Swizzled(column, to));
#pragma unroll 1
      for (int panel = 0; panel < kLatent / 128; ++panel) {
        // All are read before the first is stored: one after the other they would wait for it.
        uint32_t pairs[4][4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          ptx::ldmatrix_x4_trans(pairs[i],
                                 keys + static_cast<uint32_t>(panel * kPanelBytes +
                                                              Swizzled(key, 2 * i + matrix / 2)));
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const uint32_t (&of)[4] = pairs[i];
          const uint32_t columns[4] = {
              __byte_perm(of[0], of[1], first), __byte_perm(of[0], of[1], second),
              __byte_perm(of[2], of[3], first), __byte_perm(of[2], of[3], second)};
          ptx::stmatrix_x4(out + static_cast<uint32_t>((panel * 4 + i) * 32 * 128), columns);
        }
      }
    }
  }
};

}  // namespace vk::cuda::mla
#endif  // VLLM_KERNELS_CUDA_MLA_FLOAT8_CUH_
