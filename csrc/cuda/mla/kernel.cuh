// Latent attention of tiles of 64 rows on Hopper. Four or eight warps fetch keys; two warpgroups of
// consumers take a stage of keys each, hand their weights to each other, and multiply them with
// half of the values' columns each: so the output fits into registers, and one computes its softmax
// while the other multiplies (the schedule of FlashMLA,
// https://github.com/deepseek-ai/FlashMLA/blob/main/docs/20250422-new-kernel-deep-dive.md).
#ifndef VLLM_KERNELS_CUDA_MLA_KERNEL_CUH_
#define VLLM_KERNELS_CUDA_MLA_KERNEL_CUH_

#include <cuda.h>

#include <cstdint>
#include <type_traits>

#include "cuda/mla/consume.cuh"
#include "cuda/mla/consumer.cuh"
#include "cuda/mla/float8.cuh"
#include "cuda/mla/producer.cuh"
#include "cuda/mla/storage.cuh"
#include "cuda/mla/tile.cuh"
#include "cuda/mla/works.cuh"
#include "cuda/ptx/griddepcontrol.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/setmaxnreg.cuh"
#include "cuda/ptx/tma.cuh"

namespace vk::cuda::mla {

// Consumer kGroup's part in all works of the block.
template <class T, class Producer, class Works, int kGroup>
__device__ __forceinline__ void Attend(const Problem& p, const Pipeline& pipeline,
                                       SharedStorage<T>& storage) {
  // The assembler takes no instruction with more registers than a thread starts with.
  constexpr int kProducts = 65536 / kThreads<Producer> > kOut + 30 ? 1 : 2;
  int phase = 0;
  float scale = p.scale_log2;
  if constexpr (kFloat8<T>) scale *= ScaleAt(p.query_scale) * ScaleAt(p.cache_scale);
  Works works(p);
  for (Work work; works.Next(p, work);) {
    LoadQueries<T, Producer>(p, work.tile, storage);
    Consumer<T, kGroup> consumer(storage, scale);
    consumer.SetLimits(p, work.tile, work.keys);
    Consume<kProducts>(consumer, pipeline, work.first_pair, work.last_pair, phase);
    // Not before: blocks that wait take the places of the multiprocessors that are done first, and
    // merge there alone.
    if (works.Last()) ptx::griddepcontrol_launch_dependents();
    Finish(p, work.tile, consumer, storage);
  }
}

template <class T, class Producer, class Works>
__global__ void __launch_bounds__(kThreads<Producer>, 1)
    AttentionKernel(const __grid_constant__ Problem p, const __grid_constant__ CUtensorMap map) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ char unaligned[];
  auto& storage = sm90::AlignedStorage<SharedStorage<T>>(unaligned);
  const Pipeline pipeline(storage.pipeline);
  if (threadIdx.x == 0) {
    if (p.whole_stages) ptx::prefetch_tensormap(&map);
    constexpr int kProducers = Producer::kWarps / Producer::kTeams,
                  kWarps = kConsumerThreads / 2 / 32;
    for (int half = 0; half < kStages * kHalves; ++half) {
      int readers = kWarps;
      if constexpr (kFloat8<T>) {
        // Keys have one consumer and those who transpose, values both consumers.
        readers += half % kHalves == 0 ? kProducers : kWarps;
      } else if (half == kStages * kHalves - 1) {
        readers += kWarps;  // consumer 0 reads weights, consumer 1 values
      }
      pipeline.InitStage(half, readers, kProducers);
    }
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  // Attention starts while the kernel before it ends.
  ptx::griddepcontrol_wait();
  // A block starts with as many registers as its threads can have in multiples of eight, and
  // setmaxnreg waits forever for more.
  constexpr int kOfProducers = kProducerThreads<Producer>, kOfBlock = kThreads<Producer>;
  static_assert(Producer::kRegisters * kOfProducers +
                    Producer::kConsumerRegisters * kConsumerThreads <=
                65536 / kOfBlock / 8 * 8 * kOfBlock);
  if (threadIdx.x < kOfProducers) {
    ptx::setmaxnreg_dec<Producer::kRegisters>();
    using Stages = std::conditional_t<kFloat8<T>, Float8Producer, StageProducer<Producer>>;
    Stages producer{p, storage, pipeline, map};
    Works works(p);
    for (Work work; works.Next(p, work);) {
      if (threadIdx.x / 32 == Producer::kWarps - 1) AskForQueries<T>(p, work.tile);
      const auto slot_of = works.Source(p, work);
      if constexpr (Works::kBlocks) {
        producer.ProduceBlocks(slot_of, work.keys, work.first_pair, work.last_pair);
      } else {
        producer.Produce(slot_of, work.first_pair, work.last_pair);
      }
    }
  } else {
    ptx::setmaxnreg_inc<Producer::kConsumerRegisters>();
    if (threadIdx.x < kOfProducers + kConsumerThreads / 2) {
      Attend<T, Producer, Works, 0>(p, pipeline, storage);
    } else {
      Attend<T, Producer, Works, 1>(p, pipeline, storage);
    }
  }
#endif
}

// A block has four rows, a row, or a quarter of one.
template <class T, class Works, MergeBy kBy>
__global__ void __launch_bounds__(kMergeThreads) MergeKernel(const __grid_constant__ Problem p) {
  ptx::griddepcontrol_launch_dependents();
  const typename Works::Merges merges(p);
  ptx::griddepcontrol_wait();
  const int64_t block = blockIdx.x;
  merges.Row(p, kBy == MergeBy::kWarp ? block * kMergeWarps + threadIdx.x / 32 : block,
             [&](const Tile& tile, int tile_row, int32_t count, const auto& at) {
               MergeRow<T, kBy>(p, tile, tile_row, count, at);
             });
}

}  // namespace vk::cuda::mla
#endif  // VLLM_KERNELS_CUDA_MLA_KERNEL_CUH_
