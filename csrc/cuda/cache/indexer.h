// The cache of a sparse attention's indexer: blocks of float8 keys, and behind a block's keys their
// scales.
#ifndef VLLM_KERNELS_CUDA_CACHE_INDEXER_H_
#define VLLM_KERNELS_CUDA_CACHE_INDEXER_H_

#include "cuda/cache/launch.h"

namespace vk::cuda::cache {

struct IndexerWrite {
  const void* keys;  // [tokens, head]
  uint8_t* cache;
  const int64_t* slots;
  int64_t key_stride, block_stride, slot_limit;  // block_stride: bytes
  int32_t tokens, head, group, block_size;
  bool powers;  // scales are powers of two
};

struct IndexerGather {
  const uint8_t* cache;
  uint8_t *keys, *scales;
  const int32_t* table;
  const int32_t* starts;
  int64_t key_stride, scale_stride, block_stride, table_stride, blocks, pages;
  int32_t tokens, head, scale_bytes, block_size, sequences;
};

void LaunchIndexerWrite(const IndexerWrite& write, const Launch& launch);
void LaunchIndexerGather(const IndexerGather& gather, const Launch& launch);

}  // namespace vk::cuda::cache
#endif  // VLLM_KERNELS_CUDA_CACHE_INDEXER_H_
