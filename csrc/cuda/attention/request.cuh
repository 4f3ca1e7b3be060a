// Requests, rows and masks: which keys a row of a tile sees, and where they are.
#ifndef VLLM_KERNELS_CUDA_ATTENTION_REQUEST_CUH_
#define VLLM_KERNELS_CUDA_ATTENTION_REQUEST_CUH_

#include <climits>
#include <cstdint>

#include "cuda/attention/problem.h"
#include "cuda/common/dtype.cuh"
#include "cuda/ptx/arithmetic.cuh"

namespace vk::cuda::attention {

// 1 - 2 / (e^2x + 1): right at both ends, absolute error below 1e-6 (tanh.approx has 5e-4).
__device__ __forceinline__ float Tanh(float x) {
  return 1.0f - __fdividef(2.0f, ptx::ex2_approx_ftz(x * 2.885390082f) + 1.0f);
}

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

struct Request {
  int32_t index;
  int32_t first_token;  // row of query and out
  int32_t query_len, seq_len;
  int32_t right;  // keys after the query's position that it sees
};

__device__ __forceinline__ Request LoadRequest(const Problem& p, int32_t index) {
  Request request;
  request.index = index;
  request.first_token = p.query_start[index];
  request.query_len = p.query_start[index + 1] - request.first_token;
  request.seq_len =
      p.seq_lens != nullptr ? p.seq_lens[index] : p.key_start[index + 1] - p.key_start[index];
  // Keys beyond the row of the table have no block.
  if (p.block_table != nullptr) request.seq_len = min(request.seq_len, p.pages * p.block_size);
  const bool causal = p.dynamic_causal != nullptr ? p.dynamic_causal[index] != 0 : p.causal;
  request.right = causal ? min(p.window_right, 0) : p.window_right;
  return request;
}

// Keys [begin, end) that some of the query tokens [first, last] of the request see.
struct KeyRange {
  int32_t begin, end;
};

__device__ __forceinline__ KeyRange VisibleKeys(const Problem& p, const Request& request,
                                                int32_t first, int32_t last) {
  const int32_t offset = request.seq_len - request.query_len;
  KeyRange range;
  // 64 bits: a window may be any 32-bit number.
  range.begin = static_cast<int32_t>(max(int64_t{0}, int64_t{first} + offset - p.window_left));
  range.end = static_cast<int32_t>(
      max(int64_t{0}, min(int64_t{request.seq_len}, int64_t{last} + offset + request.right + 1)));
  range.begin = min(range.begin, range.end);
  return range;
}

// Keys that each of the query tokens [first, last] sees.
__device__ __forceinline__ KeyRange KeysOfAll(const Problem& p, const Request& request,
                                              int32_t first, int32_t last) {
  return {VisibleKeys(p, request, last, last).begin, VisibleKeys(p, request, first, first).end};
}

// The keys [low, high] of one row; none where high < low.
struct RowMask {
  int32_t low, high;
  int32_t position;
  float slope;  // of ALiBi, times log2(e)
};

__device__ __forceinline__ RowMask LoadRowMask(const Problem& p, const Request& request,
                                               int32_t token, int32_t head) {
  RowMask mask{0, -1, 0, 0.0f};
  if (token >= request.query_len) return mask;
  const KeyRange range = VisibleKeys(p, request, token, token);
  mask.low = range.begin;
  mask.high = range.end - 1;
  mask.position = request.seq_len - request.query_len + token;
  if (p.alibi != nullptr) {
    mask.slope = p.alibi[request.index * p.alibi_request_stride + head] * kLog2E;
  }
  return mask;
}

// Scores to base-2 logits: the factors that all elements of a tile share.
struct Logits {
  float scale;  // of a score, times log2(e); with a cap: of a score over the cap
  float cap;    // times log2(e); 0: none
  bool alibi;
};

__device__ __forceinline__ float Scale(const float* scales, int64_t request_stride,
                                       int64_t head_stride, int32_t request, int32_t kv_head) {
  return scales == nullptr ? 1.0f : scales[request * request_stride + kv_head * head_stride];
}

__device__ __forceinline__ Logits LoadLogits(const Problem& p, int32_t request, int32_t kv_head) {
  const float scale =
      p.scale * Scale(p.k_scale, p.k_scale_request_stride, p.k_scale_head_stride, request, kv_head);
  Logits logits;
  logits.alibi = p.alibi != nullptr;
  logits.cap = p.softcap * kLog2E;
  logits.scale = p.softcap > 0.0f ? scale / p.softcap : scale * kLog2E;
  return logits;
}

// Scores of one row to logits: Score(i) is a reference to the i-th of kCount, Key(i) its key. The
// branches are the same for all threads and are taken once for all elements.
template <int kCount, class Score, class Key>
__device__ __forceinline__ void ToLogits(const Logits& logits, const RowMask& mask, bool masked,
                                         const Score& score, const Key& key) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) score(i) *= logits.scale;
  if (logits.cap > 0.0f) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) score(i) = logits.cap * Tanh(score(i));
  }
  if (logits.alibi) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      score(i) += mask.slope * static_cast<float>(key(i) - mask.position);
    }
  }
  if (masked) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (key(i) < mask.low || key(i) > mask.high) score(i) = -INFINITY;
    }
  }
}

template <class T>
__device__ __forceinline__ float SinkLogit(const Problem& p, int32_t head) {
  const float sink = p.sinks_are_float ? static_cast<const float*>(p.sinks)[head]
                                       : ToFloat(static_cast<const T*>(p.sinks)[head]);
  return sink * kLog2E;
}

__device__ __forceinline__ int32_t PageOf(const Problem& p, int32_t key) {
  return static_cast<int32_t>(static_cast<uint64_t>(key) * p.page_factor >> p.page_shift);
}

// The request's row of the block table; null: its keys are packed, all on page 0.
__device__ __forceinline__ const int32_t* TableRow(const Problem& p, const Request& request) {
  return p.block_table == nullptr ? nullptr : p.block_table + request.index * p.table_stride;
}

// The block of a page. A number that is none of the cache's must not be read from, and becomes one.
__device__ __forceinline__ int32_t BlockOf(const Problem& p, const int32_t* table, int32_t page) {
  return min(max(table[page], 0), p.blocks - 1);
}

// Keys of a request and head in block 0.
__device__ __forceinline__ const char* KeyBase(const Problem& p, const Request& request,
                                               int32_t kv_head, const void* cache,
                                               const CacheStrides& strides) {
  const char* base = static_cast<const char*>(cache) + kv_head * strides.head;
  if (p.block_table == nullptr) base += p.key_start[request.index] * strides.slot;
  return base;
}

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_CUDA_ATTENTION_REQUEST_CUH_
