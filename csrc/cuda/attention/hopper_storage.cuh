// What the Hopper prefill kernel's threads share.
#ifndef VLLM_KERNELS_CUDA_ATTENTION_HOPPER_STORAGE_CUH_
#define VLLM_KERNELS_CUDA_ATTENTION_HOPPER_STORAGE_CUH_

#include <cstdint>

#include "cuda/attention/hopper.h"
#include "cuda/attention/request.cuh"
#include "cuda/sm90/pipeline.cuh"
#include "cuda/sm90/shared_storage.cuh"
#include "cuda/sm90/tile_scheduler.cuh"

namespace vk::cuda::attention {

// A tile of work of a block. A negative kv_head: there is none any more.
struct HopperTile {
  Request request;
  int32_t kv_head, first_row, first_token;
  KeyRange range, all;    // keys that some and that all of its rows see
  int32_t origin, count;  // first key of tile 0 of the keys, and how many tiles
};

template <int kHead>
struct HopperTraits {
  static constexpr int kConsumers = HopperConsumers(kHead);  // warpgroups
  static constexpr int kConsumerWarps = 4 * kConsumers;
  static constexpr int kThreads = 128 * (1 + kConsumers);
  // Registers of a thread that loads and of one that multiplies.
  static constexpr int kProducerRegisters = kConsumers == 2 ? 40 : 32;
  static constexpr int kConsumerRegisters = kConsumers == 2 ? 232 : 160;
  static_assert(128 * (kProducerRegisters + kConsumers * kConsumerRegisters) <= 65536);
  static constexpr int kRows = HopperRows(kHead);
  static constexpr int kKeys = HopperKeys(kHead);
  // Keys stay until it is known that their scores need not be computed again.
  static constexpr int kKeyStages = 3, kValueStages = 2;
  static constexpr int kPanels = kHead / 64;
  // Products with 16 keys' values that a warpgroup asks for before the next one's turn.
  static constexpr int kStepsOfTurn = kHead <= 64 ? 0 : kKeys / 64;
  // Tiles of queries: a second one where there is room, which is copied while results are written
  // through the memory of the first.
  static constexpr int kQueries = kHead <= 192 ? 2 : 1;
  using Pipeline = sm90::Pipeline<kKeyStages>;
  using QueryPipeline = sm90::Pipeline<kQueries>;
  using Scheduler = sm90::DynamicTileScheduler<HopperTile, 2>;

  // Tiles are panels of 64 columns, 128 bytes a row, in the 128-byte swizzle.
  struct SharedStorage {
    char query[kQueries][kPanels][kRows * 128];
    char keys[kKeyStages][kPanels][kKeys * 128];
    char values[kValueStages][kPanels][kKeys * 128];
    typename QueryPipeline::SharedStorage query_pipeline;
    typename Pipeline::SharedStorage key_pipeline, value_pipeline;
    typename Scheduler::SharedStorage scheduler;
    float sink[kConsumerWarps];  // nobody reads it
  };
  static constexpr int kQueryBytes = sizeof(SharedStorage::query[0]);
  static constexpr int kQueryPanel = sizeof(SharedStorage::query[0][0]);
  static constexpr int kKeyPanel = sizeof(SharedStorage::keys[0][0]);
  static constexpr int kTileBytes = sizeof(SharedStorage::keys[0]);
};

// Of each kind one for each warpgroup of the consumers: NamedBarrier + its number.
enum class NamedBarrier {
  kTurn = 1,       // at the tensor cores
  kWarpgroup = 4,  // the warpgroup alone
};
constexpr int BarrierOf(NamedBarrier barrier, int group) {
  return static_cast<int>(barrier) + group;
}

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_CUDA_ATTENTION_HOPPER_STORAGE_CUH_
