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
  int32_t block[kKeys / 16], slot[kKeys / 16];

  __device__ __forceinline__ void Load(const KeyRows& rows, int32_t first_key, KeyRange range) {
#pragma unroll
    for (int i = 0; i < kKeys / 16; ++i) {
      const int32_t key = first_key + 16 * i, page = rows.Page(key);
      slot[i] = key - page * rows.block_size;
      // A group that lies partly before the range is on a page with it; the entries of pages
      // without visible keys mean nothing.
      const bool seen = key < range.end && key + 16 > range.begin;
      block[i] = seen && rows.table != nullptr ? rows.table[page] : 0;
    }
  }
};

// Copies rows of keys by kThreads threads; zeros outside of the range and past the head's bytes.
// kFast: rows have and start at multiples of 16 bytes, and 16 keys from a multiple of 16 on share a
// page; what else the engine may pass goes the slow way.
template <class KV, int kHead, int kKeys, int kThreads, bool kFast>
struct KeyCopier {
  static constexpr int kRow = kRowBytes<KV, kHead>;
  static constexpr int kChunks = kHead * static_cast<int>(sizeof(KV)) / 16;  // of a row
  static constexpr int kCopies = (16 * kChunks + kThreads - 1) / kThreads;   // of a group
  // Each copy of a thread is at the same columns, kRowStep rows after the one before.
  static constexpr bool kRegular = kThreads % kChunks == 0 && 16 * kChunks >= kThreads;
  static constexpr int kRowStep = kRegular ? kThreads / kChunks : 0;

  KeyRows rows;
  int64_t row_step;  // bytes
  int64_t offset;    // bytes from a group to the thread's first row and column
  int32_t bytes;     // of a head
  int16_t thread, row;
  bool inside;  // the thread's columns are the head's

  __device__ __forceinline__ KeyCopier(const KeyRows& key_rows, int32_t head_bytes, int index)
      : rows(key_rows), bytes(head_bytes), thread(static_cast<int16_t>(index)) {
    const int chunk = index % kChunks;
    row = static_cast<int16_t>(index / kChunks);
    row_step = kRowStep * rows.slot_stride;
    offset = row * rows.slot_stride + chunk * 16;
    inside = chunk * 16 < bytes;
  }

  __device__ __forceinline__ void Copy(char* to, const Pages<kKeys>& pages, int32_t first_key,
                                       KeyRange range) const {
#pragma unroll
    for (int group = 0; group < kKeys / 16; ++group) {
      char* target = to + group * 16 * kRow;
      const int32_t key = first_key + 16 * group;
      const char* source =
          rows.base + pages.block[group] * rows.block_stride + pages.slot[group] * rows.slot_stride;
      if constexpr (!kFast) {
        CopySlowly(target, key, range);
      } else if constexpr (kRegular) {
        target += row * kRow + (thread % kChunks) * 16;
        source += offset;
#pragma unroll
        for (int i = 0; i < kCopies; ++i) {
          const int32_t at = key + row + i * kRowStep;
          CopyAsync(target + i * kRowStep * kRow, source + i * row_step,
                    inside && at >= range.begin && at < range.end);
        }
      } else {
#pragma unroll
        for (int i = 0; i < kCopies; ++i) {
          const int index = thread + i * kThreads;
          if (16 * kChunks % kThreads != 0 && index >= 16 * kChunks) break;
          const int at = index / kChunks, chunk = index % kChunks;
          CopyAsync(target + at * kRow + chunk * 16, source + at * rows.slot_stride + chunk * 16,
                    chunk * 16 < bytes && key + at >= range.begin && key + at < range.end);
        }
      }
    }
  }

 private:
  __device__ __forceinline__ void CopySlowly(char* to, int32_t group_key, KeyRange range) const {
#pragma unroll 1
    for (int index = thread; index < 16 * kChunks; index += kThreads) {
      const int32_t key = group_key + index / kChunks;
      const int chunk = index % kChunks;
      const bool valid = key >= range.begin && key < range.end;
      const char* source = rows.base;
      if (valid) {
        const int32_t page = rows.Page(key);
        const int32_t block = rows.table != nullptr ? rows.table[page] : 0;
        source += block * rows.block_stride + (key - page * rows.block_size) * rows.slot_stride;
      }
      CopyChunk<KV>(to + index / kChunks * kRow + chunk * 16, source, chunk * 16, bytes, valid);
    }
  }
};

// Query rows [first_row, first_row + kRows) of a request and key/value head; row r is query token
// r / group, head r % group. Zeros past the request's last row.
template <class T, int kHead, int kRows, bool kFast>
__device__ __forceinline__ void CopyQuery(char* to, const Problem& p, const Request& request,
                                          int32_t kv_head, int32_t first_row) {
  constexpr int kRow = kRowBytes<T, kHead>;
  constexpr int kChunks = kHead * static_cast<int>(sizeof(T)) / 16;
  const int bytes = p.head_size * static_cast<int>(sizeof(T));
  const int32_t rows = request.query_len * p.group;
#pragma unroll 1
  for (int index = threadIdx.x; index < kRows * kChunks; index += blockDim.x) {
    const int row = index / kChunks, chunk = index % kChunks;
    const int32_t token = (first_row + row) / p.group;
    const int32_t head = (first_row + row) - token * p.group + kv_head * p.group;
    const bool valid = first_row + row < rows && chunk * 16 < bytes;
    const char* source = static_cast<const char*>(p.query);
    if (valid) {
      source +=
          ((request.first_token + token) * p.query_token_stride + head * p.query_head_stride) *
          static_cast<int64_t>(sizeof(T));
    }
    char* target = to + row * kRow + chunk * 16;
    if constexpr (kFast) {
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
