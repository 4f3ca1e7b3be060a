// Rows of queries, keys and values into shared memory.
#ifndef VLLM_KERNELS_CUDA_ATTENTION_ROWS_CUH_
#define VLLM_KERNELS_CUDA_ATTENTION_ROWS_CUH_

#include <cstdint>

#include "cuda/attention/request.cuh"
#include "cuda/attention/warp_tile.cuh"

namespace vk::cuda::attention {

// 16 bytes of a row of `bytes`, element by element: for rows that are not aligned.
template <class E>
__device__ __forceinline__ void CopyChunk(char* to, const char* row, int offset, int bytes,
                                          bool valid) {
  E* target = reinterpret_cast<E*>(to);
  const E* source = reinterpret_cast<const E*>(row + offset);
  constexpr int kElements = 16 / static_cast<int>(sizeof(E));
#pragma unroll
  for (int i = 0; i < kElements; ++i) {
    const bool inside = valid && offset + i * static_cast<int>(sizeof(E)) < bytes;
    target[i] = inside ? source[i] : E{};
  }
}

// Pages of the 16-key groups of a tile, read ahead of the copies that need them.
template <int kKeys>
struct Pages {
  int32_t block[kKeys / 16];

  __device__ __forceinline__ void Load(const KeyRows& rows, int32_t first_key, KeyRange range) {
#pragma unroll
    for (int i = 0; i < kKeys / 16; ++i) {
      const int32_t key = first_key + 16 * i;
      // A group that lies partly before the range may be on a page with it, so it is looked up by
      // the first visible key.
      block[i] = key < range.end ? rows.Block(max(key, range.begin)) : 0;
    }
  }
};

// kKeys rows from `first_key` on by kThreads threads; zeros outside of `range` and past `bytes`.
// `grouped`: 16 keys from a multiple of 16 on share a page.
template <class KV, int kHead, int kKeys, int kThreads>
__device__ __forceinline__ void CopyKeys(char* to, const KeyRows& rows, const Pages<kKeys>& pages,
                                         int32_t first_key, KeyRange range, int bytes, bool grouped,
                                         bool vector, int thread) {
  constexpr int kRow = kRowBytes<KV, kHead>;
  constexpr int kChunks = kHead * static_cast<int>(sizeof(KV)) / 16;  // of a row
  static_assert(16 * kChunks % 32 == 0, "a warp's copies are whole");
#pragma unroll
  for (int group = 0; group < kKeys / 16; ++group) {
    const int32_t group_key = first_key + 16 * group;
    const char* group_row = rows.Row(group_key, pages.block[group]);
    constexpr int kCopies = (16 * kChunks + kThreads - 1) / kThreads;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int index = thread + i * kThreads;
      if (16 * kChunks % kThreads != 0 && index >= 16 * kChunks) break;
      const int row = index / kChunks, chunk = index % kChunks;
      const int32_t key = group_key + row;
      const bool valid = key >= range.begin && key < range.end && chunk * 16 < bytes;
      const char* source = group_row + row * rows.slot_stride;
      if (!grouped && valid) source = rows.Row(key, rows.Block(key));
      char* target = to + (group * 16 + row) * kRow + chunk * 16;
      if (vector) {
        CopyAsync(target, source + chunk * 16, valid);
      } else {
        CopyChunk<KV>(target, source, chunk * 16, bytes, valid);
      }
    }
  }
}

// Query rows [first_row, first_row + kRows) of a request and key/value head; row r is query token
// r / group, head r % group. Zeros past the request's last row.
template <class T, int kHead, int kRows>
__device__ __forceinline__ void CopyQuery(char* to, const Problem& p, const Request& request,
                                          int32_t kv_head, int32_t first_row) {
  constexpr int kRow = kRowBytes<T, kHead>;
  constexpr int kChunks = kHead * static_cast<int>(sizeof(T)) / 16;
  const int bytes = p.head_size * static_cast<int>(sizeof(T));
  const int32_t rows = request.query_len * p.group;
  for (int index = threadIdx.x; index < kRows * kChunks; index += blockDim.x) {
    const int row = index / kChunks, chunk = index % kChunks;
    const int32_t token = (first_row + row) / p.group;
    const int32_t head = (first_row + row) - token * p.group + kv_head * p.group;
    const bool valid = first_row + row < rows && chunk * 16 < bytes;
    const char* source = static_cast<const char*>(p.query);
    if (valid) {
      source += ((request.first_token + token) * p.query_token_stride + head * p.query_head_stride) *
                static_cast<int64_t>(sizeof(T));
    }
    char* target = to + row * kRow + chunk * 16;
    if (p.query_vector) {
      uint4 value = make_uint4(0, 0, 0, 0);
      if (valid) value = *reinterpret_cast<const uint4*>(source + chunk * 16);
      *reinterpret_cast<uint4*>(target) = value;
    } else {
      CopyChunk<T>(target, source, chunk * 16, bytes, valid);
    }
  }
}

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_CUDA_ATTENTION_ROWS_CUH_
