// Between the checks (*.cc) and the kernels (*.cu). Strides count elements.
#ifndef VLLM_KERNELS_CUDA_CACHE_LAUNCH_H_
#define VLLM_KERNELS_CUDA_CACHE_LAUNCH_H_

#include "cuda/common/fast_div.h"
#include "cuda/common/launch.h"

namespace vk::cuda::cache {

// How a cache holds what is written to it.
enum class Format { kSame, kE4M3, kE5M2 };

// One of the two tensors that a kernel writes: rows by token and head.
struct Stream {
  const void* from;
  void* to;
  const float* scale;
  int64_t from_token_stride, from_head_stride;
  int64_t to_block_stride, to_slot_stride, to_head_stride;
  int64_t scale_stride;  // 0: one for all heads
  int64_t width;         // of a row
  FastDiv pieces;        // vectors, or elements, of a row
  uint32_t count;        // pieces of all rows
};

struct Write {
  Stream streams[2];
  const int64_t* slots;  // null: token t goes to slot t
  int64_t slot_limit;
  FastDiv block_size, heads;
};

// Of the older layout: where element d of a row goes.
struct OldLayout {
  int64_t x, block_size, key_block, value_block;  // the last two: elements of a block
  int64_t head_size;
};

// Latents and their rotated parts of several layers, whose caches are alike.
struct GroupedWrite {
  const void *latents, *ropes;
  const int64_t* caches;  // [layers], addresses
  const int64_t* slots;
  const float* scales;  // [layers]; null: none
  int64_t latent_layer, latent_token, rope_layer, rope_token, slot_layer;
  int64_t block_stride, entry_stride, block_size, layers;
  int32_t latent_pieces;  // of an entry; the others are its rotated part
  FastDiv pieces;
  uint32_t count;  // of a layer
};

struct Gather {
  const void* from;
  void* to;
  const int32_t* table;
  const int32_t* starts;        // cu_seq_lens
  const int32_t* token_to_seq;  // null: found in `starts`
  const int32_t* offsets;       // seq_starts, or null
  const float* scale;
  int64_t from_block_stride, from_slot_stride, to_stride, table_stride;
  int64_t blocks, pages;
  FastDiv pieces;
  uint32_t count;
  int32_t block_size, sequences;
};

// Pairs of a query's heads and of a key, each turned by its position's angle.
struct Rotation {
  void *query, *key;
  const void* angles;  // [max_position, 2 * pairs]: cosines, sines
  const int64_t *positions, *slots;
  int64_t query_token_stride, query_head_stride, key_stride, angle_stride;
  int64_t query_heads, pairs, max_position, slot_limit;
  FastDiv half, heads;  // pairs of a head; heads with the key's
  uint32_t count;       // pairs in all
  bool neox;
};

struct Launch {
  const char* op;
  int32_t dtype;  // vk_dtype of what is not in the cache's format
  Format format;
  bool aligned;  // all rows are whole 16-byte vectors of elements of `dtype`
  cudaStream_t stream;
  bool joined = false;  // and of pairs of them, which the cache's format makes one vector or less
};

void LaunchWrite(const Write& write, const Launch& launch);
void LaunchWriteOld(const Write& write, const OldLayout& layout, const Launch& launch);
void LaunchWriteDsMla(const Write& write, const Launch& launch);
void LaunchWriteGrouped(const GroupedWrite& write, const Launch& launch);
void LaunchRotation(const Rotation& rotation, bool float_angles, const Launch& launch);
// Rows of bytes where the format is kSame: `dtype` is then VK_U8.
void LaunchGather(const Gather& gather, const Launch& launch);
// to_cache: whether `to` is the cache
void LaunchConvert(const void* from, void* to, int64_t count, float scale, bool to_cache,
                   const Launch& launch);

}  // namespace vk::cuda::cache
#endif  // VLLM_KERNELS_CUDA_CACHE_LAUNCH_H_
