// Copies and sums of rows. An index that names no row is left out.
#ifndef VLLM_KERNELS_CUDA_MOE_ROUTING_ROWS_CUH_
#define VLLM_KERNELS_CUDA_MOE_ROUTING_ROWS_CUH_

#include "cuda/common/pdl.cuh"
#include "cuda/common/vec.cuh"
#include "cuda/moe_routing/launch.h"

namespace vk::cuda::moe_routing {
namespace {

constexpr int kRowThreads = 256;

// Word: what one access moves. A block takes one row.
template <class Word>
__global__ void __launch_bounds__(kRowThreads) GatherKernel(const __grid_constant__ Copy copy) {
  PdlPrologue();
  const int64_t row = blockIdx.x, source = copy.index[row];
  if (source < 0 || source >= copy.input_rows) return;
  const Word* from = reinterpret_cast<const Word*>(copy.input + source * copy.input_stride);
  Word* to = reinterpret_cast<Word*>(copy.output + row * copy.output_stride);
  const int64_t words = copy.bytes / sizeof(Word);
  for (int64_t i = threadIdx.x; i < words; i += blockDim.x) to[i] = from[i];
}

// Reads a row once and writes its copies; kFan targets are known before the first is written.
template <class Word>
__global__ void __launch_bounds__(kRowThreads) ScatterKernel(const __grid_constant__ Copy copy) {
  PdlPrologue();
  constexpr int kFan = 8;
  const int64_t row = blockIdx.x;
  const int32_t* targets = copy.index + row * copy.fan;
  const Word* from = reinterpret_cast<const Word*>(copy.input + row * copy.input_stride);
  const int64_t words = copy.bytes / sizeof(Word);
  const int64_t end = copy.end != nullptr ? *copy.end : INT64_MAX;
  for (int first = 0; first < copy.fan; first += kFan) {
    char* to[kFan];
#pragma unroll
    for (int k = 0; k < kFan; ++k) {
      const int64_t target = first + k < copy.fan ? targets[first + k] : end;
      const bool kept = target >= 0 && target < end;
      to[k] = kept ? copy.output + target * copy.output_stride : nullptr;
    }
    for (int64_t i = threadIdx.x; i < words; i += blockDim.x) {
      const Word word = from[i];
#pragma unroll
      for (int k = 0; k < kFan; ++k) {
        if (to[k] != nullptr) reinterpret_cast<Word*>(to[k])[i] = word;
      }
    }
  }
}

__device__ __forceinline__ bool LeftOut(const Reduce& reduce, int64_t token, int k) {
  if (reduce.ids == nullptr) return false;
  const int64_t at = token * reduce.id_token_stride + k * reduce.id_entry_stride;
  const int64_t id = reduce.wide_ids ? static_cast<const int64_t*>(reduce.ids)[at]
                                     : static_cast<const int32_t*>(reduce.ids)[at];
  return id < 0 || (reduce.map != nullptr && (id >= reduce.map_size || reduce.map[id] < 0));
}

// A thread takes a vector of columns of one token; kTopk entries are under way at a time.
template <class T, int N, int kTopk, bool kIndexed>
__global__ void __launch_bounds__(kRowThreads)
    ReduceKernel(const __grid_constant__ Reduce reduce, const int row_blocks) {
  PdlPrologue();
  const int64_t token = blockIdx.x / row_blocks;
  const int64_t column =
      (static_cast<int64_t>(blockIdx.x % row_blocks) * kRowThreads + threadIdx.x) * N;
  if (column >= reduce.width) return;
  const T* input = static_cast<const T*>(reduce.input) + column * reduce.column_stride;
  [[maybe_unused]] int64_t end = reduce.input_rows;
  if (kIndexed && reduce.end != nullptr && *reduce.end < end) end = *reduce.end;
  float sum[N] = {};
  for (int first = 0; first < reduce.topk; first += kTopk) {
    Vec<T, N> values[kTopk];
    float weights[kTopk];
    bool taken[kTopk];
#pragma unroll
    for (int i = 0; i < kTopk; ++i) {
      const int k = first + i;
      bool used = k < reduce.topk;
      int64_t offset = token * reduce.token_stride + k * reduce.entry_stride;
      weights[i] = 1.0f;
      if constexpr (kIndexed) {
        if (used) {
          const int64_t row = reduce.rows[token * reduce.topk + k];
          used = row >= 0 && row < end;
          offset = row * reduce.token_stride;
          weights[i] = reduce.weights[token * reduce.topk + k];
        }
      } else {
        used = used && !LeftOut(reduce, token, k);
      }
      taken[i] = used;
      if constexpr (kIndexed) {
        if (used) values[i] = LoadVec<N>(input + offset);
      } else {
        // What is left out is read all the same: a load that waits for a condition keeps those
        // after it waiting.
        if (k >= reduce.topk) offset = token * reduce.token_stride;
        values[i] = LoadVec<N>(input + offset);
      }
    }
#pragma unroll
    for (int i = 0; i < kTopk; ++i) {
      if (!taken[i]) continue;
      float x[N];
      ToFloats(values[i], x);
#pragma unroll
      for (int j = 0; j < N; ++j)
        sum[j] = kIndexed ? fmaf(weights[i], x[j], sum[j]) : sum[j] + x[j];
    }
  }
  StoreVec(static_cast<T*>(reduce.output) + token * reduce.output_stride + column,
           FromFloats<T>(sum));
}

}  // namespace
}  // namespace vk::cuda::moe_routing
#endif  // VLLM_KERNELS_CUDA_MOE_ROUTING_ROWS_CUH_
