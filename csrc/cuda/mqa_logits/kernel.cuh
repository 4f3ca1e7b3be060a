// Logits of the indexer on Hopper. A warp streams queries and tiles of keys through shared memory,
// two warpgroups take turns with the tiles: one multiplies while the other sums over heads. Keys
// are the rows of the tensor cores' tile, heads of several queries its columns: so a thread has
// whole quarters of a query's heads, and their weights, in registers.
#ifndef VLLM_KERNELS_CUDA_MQA_LOGITS_KERNEL_CUH_
#define VLLM_KERNELS_CUDA_MQA_LOGITS_KERNEL_CUH_

#include <cuda.h>

#include "cuda/mqa_logits/consumer.cuh"
#include "cuda/mqa_logits/producer.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/setmaxnreg.cuh"

namespace vk::cuda::mqa_logits {

template <class Works, int kQueries, int kHeads>
__global__ void __launch_bounds__(kThreads, 1)
    LogitsKernel(const __grid_constant__ typename Works::Problem p,
                 const __grid_constant__ CUtensorMap query_map,
                 const __grid_constant__ CUtensorMap key_map) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ char unaligned[];
  auto& storage = sm90::AlignedStorage<SharedStorage<kQueries, kHeads>>(unaligned);
  const QueryPipeline queries(storage.query_pipeline);
  const KeyPipeline keys(storage.key_pipeline);
  if (threadIdx.x == 0) {
    queries.Init(128 * kConsumers);  // each thread reads weights and limits
    keys.Init(4);                    // the warps of the consumer whose turn it is
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  if (threadIdx.x < kProducerThreads) {
    ptx::setmaxnreg_dec<40>();
    if (threadIdx.x < 32) {
      Producer<Works, kQueries, kHeads>{p, storage, queries, keys, query_map, key_map}.Run();
    }
  } else {
    ptx::setmaxnreg_inc<232>();
    const int group = static_cast<int>(threadIdx.x) / 128 - 1;
    Consumer<Works, kQueries, kHeads>(p, storage, queries, keys, group).Run();
  }
#endif
}

}  // namespace vk::cuda::mqa_logits
#endif  // VLLM_KERNELS_CUDA_MQA_LOGITS_KERNEL_CUH_
