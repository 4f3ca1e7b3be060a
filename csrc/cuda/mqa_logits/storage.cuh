// What the threads of a block share.
#ifndef VLLM_KERNELS_CUDA_MQA_LOGITS_STORAGE_CUH_
#define VLLM_KERNELS_CUDA_MQA_LOGITS_STORAGE_CUH_

#include <cstdint>

#include "cuda/mqa_logits/problem.h"
#include "cuda/sm90/pipeline.cuh"
#include "cuda/sm90/shared_storage.cuh"

namespace vk::cuda::mqa_logits {

constexpr int kProducerThreads = 128;
constexpr int kConsumers = 2;  // warpgroups
constexpr int kThreads = kProducerThreads + 128 * kConsumers;
constexpr int kQueryStages = 2, kKeyStages = 8;

// Some queries, and tiles of the keys that they see.
struct Work {
  int32_t row, rows;  // first query, and how many; 0 rows: the last work
  int32_t first_tile, last_tile, step;
};

// Keys whose logits a query gets, and the key that is in column 0.
struct Limits {
  int32_t begin, end, origin;
};

template <int kQueries, int kHeads>
struct SharedStorage {
  static constexpr int kColumns = kQueries * kHeads;
  static_assert(kColumns <= kMostColumns);

  char queries[kQueryStages][kColumns * kDepth];
  char keys[kKeyStages][kKeys * kDepth];
  float scales[kKeyStages][kKeys];  // of keys in pages
  float weights[kQueryStages][kColumns];
  Work works[kQueryStages];
  Limits limits[kQueryStages][kQueries];
  typename sm90::Pipeline<kQueryStages>::SharedStorage query_pipeline;
  typename sm90::Pipeline<kKeyStages>::SharedStorage key_pipeline;
};

using QueryPipeline = sm90::Pipeline<kQueryStages>;
using KeyPipeline = sm90::Pipeline<kKeyStages>;

}  // namespace vk::cuda::mqa_logits
#endif  // VLLM_KERNELS_CUDA_MQA_LOGITS_STORAGE_CUH_
