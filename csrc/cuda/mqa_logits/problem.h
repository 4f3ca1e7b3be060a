// What the kernels of the indexer's logits are told.
#ifndef VLLM_KERNELS_CUDA_MQA_LOGITS_PROBLEM_H_
#define VLLM_KERNELS_CUDA_MQA_LOGITS_PROBLEM_H_

#include <cstdint>

#include "cuda/common/cut.h"

namespace vk::cuda::mqa_logits {

constexpr int kDepth = 128;        // columns of queries and keys: one row of the 128-byte swizzle
constexpr int kKeys = 64;          // of a tile
constexpr int kMostColumns = 256;  // queries times heads of a tile: columns of one product

// Strides are in elements.
struct Problem {
  float* logits;
  int64_t logits_stride;
  int32_t columns;
  const float* weights;
  int64_t weights_stride;
  int32_t rows;
};

struct Contiguous : Problem {
  const float* key_scales;
  const int32_t *starts, *ends;
  int32_t keys;
  int32_t chunk;  // tiles of keys of one work
  bool from_start;
};

struct Paged : Problem {
  const char* cache;
  int64_t page_bytes;  // between pages
  int32_t pages, slots;
  const int32_t* context_lens;
  int64_t entry_stride, query_stride;  // of context_lens; the latter 0: one length for all queries
  const int32_t* block_table;
  int64_t table_stride;
  int32_t table_width;
  int32_t batch, queries;
  const Cut* schedule;
  int32_t splits;  // blocks that share a part
};

// The keys that each query of an entry sees.
struct ContextLengths {
  const int32_t* data;
  int64_t entry_stride, query_stride;
  int32_t count;  // of an entry
};

}  // namespace vk::cuda::mqa_logits
#endif  // VLLM_KERNELS_CUDA_MQA_LOGITS_PROBLEM_H_
