// Rows of queries, keys and values into shared memory.
#ifndef VLLM_KERNELS_CUDA_ATTENTION_ROWS_CUH_
#define VLLM_KERNELS_CUDA_ATTENTION_ROWS_CUH_

#include <cstdint>

#include "cuda/attention/request.cuh"
#include "cuda/attention/warp_tile.cuh"
#include "cuda/ptx/cp_async.cuh"

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

  __device__ __forceinline__ void Load(const Problem& p, const int32_t* table, int32_t first_key,
                                       KeyRange range) {
#pragma unroll
    for (int i = 0; i < kKeys / 16; ++i) {
      const int32_t key = first_key + 16 * i, page = PageOf(p, key);
      slot[i] = key - page * p.block_size;
      // A group that lies partly before the range is on a page with it; the entries of pages
      // without visible keys mean nothing.
      const bool seen = key < range.end && key + 16 > range.begin;
      block[i] = seen && table != nullptr ? BlockOf(p, table, page) : 0;
    }
  }
};

// Copies rows of keys by kThreads threads; zeros outside of the range and past the head's bytes.
// kFast: rows have and start at multiples of 16 bytes, and 16 keys from a multiple of 16 on share a
// page; what else the engine may pass goes the slow way. What all threads share stays in the
// kernel's arguments, not in registers.
template <class KV, int kHead, int kKeys, int kThreads, bool kFast, bool kValues>
struct KeyCopier {
  static constexpr int kRow = kRowBytes<KV, kHead>;
  static constexpr int kChunks = kHead * static_cast<int>(sizeof(KV)) / 16;  // of a row
  static constexpr int kCopies = (16 * kChunks + kThreads - 1) / kThreads;   // of a group
  // Each copy of a thread is at the same columns, kRowStep rows after the one before.
  static constexpr bool kRegular = kThreads % kChunks == 0 && 16 * kChunks >= kThreads;
  static constexpr int kRowStep = kRegular ? kThreads / kChunks : 0;

  const Problem& p;
  const int32_t* table;
  const char* base;
  int thread;

  __device__ __forceinline__ const CacheStrides& Strides() const {
    return kValues ? p.value_strides : p.key_strides;
  }
  __device__ __forceinline__ int Bytes() const {
    return (kValues ? p.value_head_size : p.head_size) * static_cast<int>(sizeof(KV));
  }

  __device__ __forceinline__ KeyCopier(const Problem& problem, const Request& request,
                                       int32_t kv_head, int index)
      : p(problem), table(TableRow(problem, request)), thread(index) {
    base = KeyBase(p, request, kv_head, kValues ? p.value : p.key, Strides());
    if (kFast && kRegular) base += index / kChunks * Strides().slot + index % kChunks * 16;
  }

  __device__ __forceinline__ void Copy(char* to, const Pages<kKeys>& pages, int32_t first_key,
                                       KeyRange range) const {
#pragma unroll
    for (int group = 0; group < kKeys / 16; ++group) {
      char* target = to + group * 16 * kRow;
      const int32_t key = first_key + 16 * group;
      const char* source =
          base + pages.block[group] * Strides().block + pages.slot[group] * Strides().slot;
      if constexpr (!kFast) {
        CopySlowly(target, key, range);
      } else if constexpr (kRegular) {
        const int row = thread / kChunks, column = thread % kChunks * 16;
#pragma unroll
        for (int i = 0; i < kCopies; ++i) {
          const int32_t at = key + row + i * kRowStep;
          ptx::cp_async_cg_l2_128b(target + (row + i * kRowStep) * kRow + column,
                                   source + i * kRowStep * Strides().slot,
                                   column < Bytes() && at >= range.begin && at < range.end);
        }
      } else {
#pragma unroll
        for (int i = 0; i < kCopies; ++i) {
          const int index = thread + i * kThreads;
          if (16 * kChunks % kThreads != 0 && index >= 16 * kChunks) break;
          const int row = index / kChunks, column = index % kChunks * 16;
          ptx::cp_async_cg_l2_128b(
              target + row * kRow + column, source + row * Strides().slot + column,
              column < Bytes() && key + row >= range.begin && key + row < range.end);
        }
      }
    }
  }

 private:
  __device__ __forceinline__ void CopySlowly(char* to, int32_t group_key, KeyRange range) const {
#pragma unroll 1
    for (int index = thread; index < 16 * kChunks; index += kThreads) {
      const int32_t key = group_key + index / kChunks;
      const int column = index % kChunks * 16;
      const bool valid = key >= range.begin && key < range.end;
      const char* source = base;
      if (valid) {
        const int32_t page = PageOf(p, key);
        const int32_t block = table != nullptr ? BlockOf(p, table, page) : 0;
        source += block * Strides().block + (key - page * p.block_size) * Strides().slot;
      }
      CopyChunk<KV>(to + index / kChunks * kRow + column, source, column, Bytes(), valid);
    }
  }
};

// Query rows [first_row, first_row + kRows) of a request and key/value head; row r is query token
// r / group, head r % group. Zeros past the request's last row. T becomes the operands' type `To`.
template <class T, class To, int kHead, int kRows, bool kFast>
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
    if constexpr (!std::is_same_v<T, To>) {
      uint32_t* pairs = reinterpret_cast<uint32_t*>(target);
#pragma unroll
      for (int i = 0; i < 4; ++i) pairs[i] = ToOperands<T, To>(pairs[i]);
    }
  }
}

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_CUDA_ATTENTION_ROWS_CUH_
