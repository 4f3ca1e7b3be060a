// Prefill on Hopper: two producer warps feed shared memory by bulk tensor copies (TMA), two or
// three consumer warpgroups of 64 query rows each take turns at the tensor cores, one computing its
// softmax while another multiplies (FlashAttention-3). Blocks are persistent.
#ifndef VLLM_KERNELS_CUDA_ATTENTION_HOPPER_CUH_
#define VLLM_KERNELS_CUDA_ATTENTION_HOPPER_CUH_

#include <cstddef>
#include <cstdint>

#include "cuda/attention/hopper.h"
#include "cuda/attention/hopper_consumer.cuh"
#include "cuda/attention/hopper_results.cuh"
#include "cuda/attention/hopper_storage.cuh"
#include "cuda/attention/tile_map.cuh"
#include "cuda/ptx/cvta.cuh"
#include "cuda/ptx/fence.cuh"
#include "cuda/ptx/ld_st.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/named_barrier.cuh"
#include "cuda/ptx/setmaxnreg.cuh"
#include "cuda/ptx/tma.cuh"
#include "cuda/ptx/wgmma.cuh"

namespace vk::cuda::attention {

// The tile of work with the number `index`, the heaviest first; false: there is none.
__device__ __forceinline__ bool LoadHopperTile(const Problem& p, const HopperPlan& plan, int keys,
                                               int32_t index, HopperTile& tile) {
  // Sections of heads whose keys and values share the L2; within one, long tiles come first.
  const int32_t section_size = plan.tiles * plan.section_heads;
  const int32_t section = index / section_size;
  const int32_t first_head = section * plan.section_heads;
  const int32_t heads = min(plan.section_heads, p.kv_heads - first_head);
  const int32_t local = index - section * section_size;
  const int32_t row_tile = local / heads;
  tile.kv_head = first_head + local - row_tile * heads;
  const RowTile where =
      FindTile(p.query_start, p.requests, p.group, plan.tile_rows, plan.tiles - 1 - row_tile);
  tile.request = LoadRequest(p, where.request);
  tile.first_row = where.first_row;
  if (tile.request.query_len <= p.decode_query_len ||
      tile.first_row >= tile.request.query_len * p.group) {
    return false;
  }
  tile.first_token = tile.first_row / p.group;
  const int32_t last_token =
      min(tile.request.query_len - 1, (tile.first_row + plan.tile_rows - 1) / p.group);
  tile.range = VisibleKeys(p, tile.request, tile.first_token, last_token);
  tile.all = KeysOfAll(p, tile.request, tile.first_token, last_token);
  tile.origin = tile.range.begin - tile.range.begin % keys;
  tile.count = (tile.range.end - tile.origin + keys - 1) / keys;
  return true;
}

template <class T, int kHead, bool kExtras>
__global__ void __launch_bounds__(HopperTraits<kHead>::kThreads, 1)
    HopperKernel(const __grid_constant__ Problem p, const __grid_constant__ HopperPlan plan,
                 const __grid_constant__ CUtensorMap query_map,
                 const __grid_constant__ CUtensorMap key_map,
                 const __grid_constant__ CUtensorMap value_map) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using Traits = HopperTraits<kHead>;
  constexpr int kKeys = Traits::kKeys, kPanels = Traits::kPanels;
  constexpr int kTurnThreads = 256;  // of the warpgroup before and the one that waits
  extern __shared__ char unaligned[];
  using Storage = typename Traits::SharedStorage;
  auto& storage = sm90::AlignedStorage<Storage>(unaligned);
  // Constant distances from one address, which the compiler then keeps in uniform registers.
  const uint32_t query = ptx::cvta_to_shared(&storage);
  const uint32_t keys = query + offsetof(Storage, keys);
  const uint32_t values = query + offsetof(Storage, values);
  const typename Traits::QueryPipeline query_pipeline(storage.query_pipeline);
  const typename Traits::Pipeline key_pipeline(storage.key_pipeline);
  const typename Traits::Pipeline value_pipeline(storage.value_pipeline);
  typename Traits::Scheduler scheduler(storage.scheduler);
  if (threadIdx.x == 0) {
    query_pipeline.Init(Traits::kConsumerWarps);
    scheduler.Init(Traits::kConsumerWarps + 1);  // and the producer of values
    key_pipeline.Init(Traits::kConsumerWarps, Traits::kKeyStages);
    value_pipeline.Init(Traits::kConsumerWarps, Traits::kValueStages);
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  const int32_t work = plan.tiles * p.kv_heads;

  if (threadIdx.x < 128) {
    ptx::setmaxnreg_dec<Traits::kProducerRegisters>();
    // Warp 0 hands out tiles and copies queries and keys, warp 1 copies values.
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (warp > 1) return;
    const bool is_values = warp == 1;
    const CUtensorMap* map = is_values ? &value_map : &key_map;
    const uint32_t ring = is_values ? values : keys;
    const int stages = is_values ? Traits::kValueStages : Traits::kKeyStages;
    const typename Traits::Pipeline pipeline = is_values ? value_pipeline : key_pipeline;
    // One box a page and panel; a lane has one page of a tile, and one panel in `panel_step`.
    const int pieces = kKeys / plan.box_keys, panel_step = 32 / pieces;
    const int piece = lane % pieces, first_panel = lane / pieces;
    sm90::PipelineState at, query_at;
    while (true) {
      HopperTile tile;
      if (is_values) {
        const HopperTile& taken = scheduler.Take();
        tile = taken;
        scheduler.Release(taken, lane);
      } else {
        const int32_t index = scheduler.Draw(plan.counter, lane);
        if (index >= work) {
          tile.kv_head = -1;
        } else if (!LoadHopperTile(p, plan, kKeys, index, tile)) {
          continue;
        }
        scheduler.Publish(tile, lane);
      }
      if (tile.kv_head < 0) break;
      if (!is_values) {
        query_pipeline.ProducerAcquire(query_at);
        if (lane == 0) query_pipeline.ProducerCommit(query_at, kPanels * plan.tile_rows * 128);
        __syncwarp();
        if (lane < kPanels) {
          ptx::tma_load_3d(
              query + query_at.stage * Traits::kQueryBytes + lane * Traits::kQueryPanel, &query_map,
              query_pipeline.full(query_at.stage), lane * 64, tile.kv_head * p.group,
              tile.request.first_token + tile.first_token);
        }
        query_at.Advance(Traits::kQueries);
      }
      const int32_t* table = TableRow(p, tile.request);
      const int32_t packed_slot = table == nullptr ? p.key_start[tile.request.index] : 0;
      // Block of the lane's page; pages without visible keys are outside of the tensor, hence
      // zeros, and their entries of the table mean nothing.
      auto block_of = [&](int32_t key) {
        if (table == nullptr) return 0;
        const bool seen = key < tile.range.end && key + plan.box_keys > tile.range.begin;
        return seen ? table[PageOf(p, key)] : p.blocks;
      };
      // The last keys first: the mask is mostly at the end.
      int32_t key = tile.origin + (tile.count - 1) * kKeys + piece * plan.box_keys;
      int32_t next_block = tile.count > 0 ? block_of(key) : 0;
#pragma unroll 1
      for (int32_t i = 0; i < tile.count; ++i, key -= kKeys) {
        const int32_t block = next_block;
        // Read one tile ahead of its copies.
        if (i + 1 < tile.count) next_block = block_of(key - kKeys);
        const int32_t slot =
            table == nullptr ? packed_slot + key : key - PageOf(p, key) * p.block_size;
        pipeline.ProducerAcquire(at);
        if (lane == 0) pipeline.ProducerCommit(at, Traits::kTileBytes);
        __syncwarp();
#pragma unroll 1
        for (int panel = first_panel; panel < kPanels; panel += panel_step) {
          ptx::tma_load_4d(ring + at.stage * Traits::kTileBytes + panel * Traits::kKeyPanel +
                               piece * plan.box_keys * 128,
                           map, pipeline.full(at.stage), panel * 64, tile.kv_head, slot, block);
        }
        at.Advance(stages);
      }
    }
  } else {
    ptx::setmaxnreg_inc<Traits::kConsumerRegisters>();
    // Warpgroup among the consumers; a shuffle tells the compiler that it is the same for a warp.
    const int group = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0) - 1;
    const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    const uint32_t sink = ptx::cvta_to_shared(&storage.sink[threadIdx.x / 32 - 4]);
    using Consumer = HopperConsumer<T, kHead, kExtras>;
    const uint64_t first_queries = Consumer::Rows(query + group * 64 * 128);
    const uint64_t first_keys = Consumer::Rows(keys), first_values = Consumer::ValueRows(values);
    const auto queries_of = [&](int stage) {
      return sm90::AdvanceSmemDesc(first_queries, stage * Traits::kQueryBytes);
    };
    const auto keys_of = [&](int stage) {
      return sm90::AdvanceSmemDesc(first_keys, stage * Traits::kTileBytes);
    };
    const auto values_of = [&](int stage) {
      return sm90::AdvanceSmemDesc(first_values, stage * Traits::kTileBytes);
    };
    Consumer consumer;
    sm90::PipelineState key_at, value_at, query_at;
    // Turns at the tensor cores: group 0 begins.
    const int turn = BarrierOf(NamedBarrier::kTurn, group);
    const int next_turn = BarrierOf(NamedBarrier::kTurn, (group + 1) % Traits::kConsumers);
    const int own_barrier = BarrierOf(NamedBarrier::kWarpgroup, group);
    if (group + 1 == Traits::kConsumers) ptx::named_barrier_arrive(next_turn, kTurnThreads);

    // Shuffles tell the compiler that a warp goes one way, so that places in the rings are in
    // uniform registers, where descriptors of products have to be.
    const auto uniform = [](int32_t value) { return __shfl_sync(0xffffffffu, value, 0); };
    // The first scores of a tile are asked for before the results of the one before are written.
    constexpr bool kAhead = Traits::kQueries > 1;
    float scores[kKeys / 2];
    // Whether there is something to ask for. If not, what comes out means nothing; that products
    // are asked for all the same keeps the compiler from waiting for them where it need not.
    const auto ask = [&](const HopperTile& asked) {
      const bool any = uniform(asked.kv_head) >= 0;
      if (any) query_pipeline.ConsumerWait(query_at);
      if (any && uniform(asked.count) > 0) key_pipeline.ConsumerWait(key_at);
      ptx::warpgroup_fence_operand(scores);
      consumer.Scores(scores, queries_of(query_at.stage), keys_of(key_at.stage));
    };
    const HopperTile* next = &scheduler.Take();
    if constexpr (kAhead) {
      ask(*next);
      ptx::wgmma_wait_group<0>();
      ptx::warpgroup_fence_operand(scores);
    }
    while (true) {
      const HopperTile& tile = *next;
      if (uniform(tile.kv_head) < 0) break;
      const int32_t count = uniform(tile.count);
      const int row_in_tile = group * 64 + warp * 16 + lane / 4;
      consumer.logits = LoadLogits(p, tile.request.index, tile.kv_head);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int32_t row = tile.first_row + row_in_tile + 8 * half;
        const auto [token, head] = plan.group(static_cast<uint32_t>(row));
        const bool mine = row_in_tile + 8 * half < plan.tile_rows;
        consumer.masks[half] =
            LoadRowMask(p, tile.request, mine ? static_cast<int32_t>(token) : INT32_MAX,
                        tile.kv_head * p.group + static_cast<int32_t>(head));
        const bool real = mine && row < tile.request.query_len * p.group;
        consumer.limits[half] = real ? __float_as_uint(Consumer::kLarge) : UINT32_MAX;
        consumer.maximum[half] = -INFINITY;
        consumer.sum[half] = 0.0f;
      }
#pragma unroll
      for (int i = 0; i < kHead / 2; ++i) consumer.out[i] = 0.0f;
      const KeyRange range = tile.range;
      const KeyRange all = {uniform(tile.all.begin), uniform(tile.all.end)};
      auto zero_values = [&](int32_t first_key, int stage) {
        if (first_key < range.begin || first_key + kKeys > range.end) {
          ZeroValues<kHead>(storage.values[stage][0], first_key, range, group);
        }
      };

      if constexpr (!kAhead) {
        ask(tile);
        ptx::wgmma_wait_group<0>();
        ptx::warpgroup_fence_operand(scores);
      }
      const sm90::PipelineState my_query_at = query_at;
      query_at.Advance(Traits::kQueries);
      if (count > 0) {
        float factors[2];
        uint32_t weights[kKeys / 16][4];
        int32_t first_key = uniform(tile.origin) + (count - 1) * kKeys;
        const uint64_t my_query = queries_of(my_query_at.stage);
        if (lane == 0) key_pipeline.ConsumerRelease(key_at.stage);
        consumer.Softmax(scores, factors, first_key, all);
        consumer.Round(scores, weights);
        for (int32_t i = 1; i < count; ++i) {
          key_at.Advance(Traits::kKeyStages);
          key_pipeline.ConsumerWait(key_at);
          ptx::named_barrier_sync(turn, kTurnThreads);
          ptx::warpgroup_fence_operand(scores);
          ptx::warpgroup_fence_operand(consumer.out);
          consumer.Scores(scores, my_query, keys_of(key_at.stage));
          value_pipeline.ConsumerWait(value_at);
          zero_values(first_key, value_at.stage);
          first_key -= kKeys;
          ptx::wgmma_fence();
          // A warp waits where it asks for a product while others are under way, so the next
          // warpgroup is let in before the last ones are asked for.
          constexpr int kSteps = kKeys / 16, kEarly = Traits::kStepsOfTurn;
          consumer.Values(weights, values_of(value_at.stage), 0, kEarly);
          ptx::named_barrier_arrive(next_turn, kTurnThreads);
          consumer.Values(weights, values_of(value_at.stage), kEarly, kSteps);
          ptx::wgmma_commit_group();
          ptx::wgmma_wait_group<1>();
          ptx::warpgroup_fence_operand(scores);
          if constexpr (kExtras) {
            if (lane == 0) key_pipeline.ConsumerRelease(key_at.stage);
            consumer.Softmax(scores, factors, first_key, all);
            // A store that needs all exponentials keeps the assembler from moving them behind the
            // wait: they are to be computed while the product runs.
            ptx::st_volatile_shared(sink, consumer.sum[0] + consumer.sum[1]);
            ptx::wgmma_wait_group<0>();
            ptx::warpgroup_fence_operand(consumer.out);
            if (lane == 0) value_pipeline.ConsumerRelease(value_at.stage);
            // Most tiles leave the maxima of a warp's rows as they are.
            if (__any_sync(0xffffffffu, factors[0] != 1.0f || factors[1] != 1.0f)) {
              consumer.Rescale(factors);
            }
          } else {
            // Most tiles have no mask and leave the maxima as they are, so that weights need not
            // wait for those. If a tile does not, its scores are computed once more.
            const bool masked = consumer.Masked(first_key, all);
            bool again = false;
            if (!masked) {
              again = __any_sync(0xffffffffu,
                                 ptx::named_barrier_or(own_barrier, 128, consumer.Weights(scores)));
            }
            ptx::wgmma_wait_group<0>();
            ptx::warpgroup_fence_operand(consumer.out);
            if (lane == 0) value_pipeline.ConsumerRelease(value_at.stage);
            if (masked || again) {
              if (again) {
                ptx::warpgroup_fence_operand(scores);
                consumer.Scores(scores, my_query, keys_of(key_at.stage));
                ptx::wgmma_wait_group<0>();
                ptx::warpgroup_fence_operand(scores);
              }
              consumer.Softmax(scores, factors, first_key, all);
              consumer.Rescale(factors);
            } else {
              consumer.sum[0] += consumer.added[0];
              consumer.sum[1] += consumer.added[1];
            }
            if (lane == 0) key_pipeline.ConsumerRelease(key_at.stage);
          }
          value_at.Advance(Traits::kValueStages);
          consumer.Round(scores, weights);
        }
        value_pipeline.ConsumerWait(value_at);
        zero_values(first_key, value_at.stage);
        ptx::warpgroup_fence_operand(consumer.out);
        ptx::wgmma_fence();
        consumer.Values(weights, values_of(value_at.stage), 0, kKeys / 16);
        ptx::wgmma_commit_group();
        key_at.Advance(Traits::kKeyStages);
        if constexpr (kAhead) {
          next = &scheduler.Take();
          ask(*next);
          ptx::wgmma_wait_group<1>();
        } else {
          ptx::wgmma_wait_group<0>();
        }
        ptx::warpgroup_fence_operand(consumer.out);
        if (lane == 0) value_pipeline.ConsumerRelease(value_at.stage);
        value_at.Advance(Traits::kValueStages);
      } else if constexpr (kAhead) {
        next = &scheduler.Take();
        ask(*next);
      }

      char* const stage_rows = storage.query[my_query_at.stage][0] + group * 64 * 128;
      WriteResults<T, kHead, kExtras>(p, plan, tile, consumer, stage_rows, group);
      ptx::fence_proxy_async();
      __syncwarp();
      if (lane == 0) query_pipeline.ConsumerRelease(my_query_at.stage);
      scheduler.Release(tile, lane);
      if constexpr (kAhead) {
        ptx::wgmma_wait_group<0>();
        ptx::warpgroup_fence_operand(scores);
      } else {
        next = &scheduler.Take();
      }
    }
  }
#endif
}

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_CUDA_ATTENTION_HOPPER_CUH_
