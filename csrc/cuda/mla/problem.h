// What the kernels of multi-head latent attention are told.
#ifndef VLLM_KERNELS_CUDA_MLA_PROBLEM_H_
#define VLLM_KERNELS_CUDA_MLA_PROBLEM_H_

#include <cstdint>

#include "cuda/common/cut.h"

namespace vk::cuda::mla {

constexpr int kLatent = 512;  // columns of a key that are its value too
constexpr int kRope = 64;
constexpr int kHead = kLatent + kRope;
constexpr int kRows = 64;  // heads of a block
constexpr int kKeys = 64;  // keys of a stage; the two consumers take one stage each: a pair
constexpr int kPairKeys = 2 * kKeys;
// A key of the quantised cache: float8 e4m3, a float32 scale for each 128 of them, bfloat16 rope.
constexpr int kScaleGroup = 128;
constexpr int kQuantizedKeyBytes = kLatent + 4 * (kLatent / kScaleGroup) + 2 * kRope;

// Strides are in elements, those of the cache in units of 16 bytes.
struct Problem {
  const void* query;
  int64_t query_batch_stride, query_token_stride, query_head_stride;
  const char* cache;
  uint32_t block_stride, slot_stride;
  int32_t slots, block_shift;  // log2 of the slots of a block
  // Slots of the keys of a query; dense: blocks of a batch entry.
  const int32_t* indices;
  int64_t index_batch_stride, index_token_stride;
  int32_t topk;            // most keys
  const int32_t* lengths;  // keys of a batch entry | null: all
  bool causal;             // the last query of an entry sees all of its keys, the others less
  const float* sink;       // of a head | null
  void* out;
  int64_t out_batch_stride, out_token_stride, out_head_stride;
  float* lse;         // [batch, heads, queries]
  float* max_logits;  // the same | null
  int32_t batch, queries, heads;
  float scale_log2;                        // of logits, for powers of two
  const float *query_scale, *cache_scale;  // of float8 e4m3 | null: 1
  // Sparse: parts of a row's keys, of `pairs` pairs of stages each; the parts of all tiles of rows.
  int32_t splits, pairs, works;
  const Cut* schedule;  // dense, `parts` cuts and the end; units are pairs of stages
  int32_t parts;
  bool whole_stages;   // dense: a stage of one block of the cache is one box of its tensor map
  float* partial_out;  // [pieces, tiles of rows, kRows, kLatent]
  float* partial_lse;  // [pieces, tiles of rows, kRows, 2]: base 2, -inf: no key; largest logit
};

}  // namespace vk::cuda::mla
#endif  // VLLM_KERNELS_CUDA_MLA_PROBLEM_H_
