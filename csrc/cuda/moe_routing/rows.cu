#include <algorithm>

#include "cuda/common/pdl.cuh"
#include "cuda/common/vec.cuh"
#include "cuda/moe_routing/launch.h"

namespace vk::cuda::moe_routing {
namespace {

constexpr int kThreads = 256;

// Word: what one access moves. A block takes one row.
template <class Word>
__global__ void __launch_bounds__(kThreads) GatherKernel(const __grid_constant__ Copy copy) {
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
__global__ void __launch_bounds__(kThreads) ScatterKernel(const __grid_constant__ Copy copy) {
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
      to[k] = target < end ? copy.output + target * copy.output_stride : nullptr;
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
__global__ void __launch_bounds__(kThreads)
    ReduceKernel(const __grid_constant__ Reduce reduce, const int row_blocks) {
  PdlPrologue();
  const int64_t token = blockIdx.x / row_blocks;
  const int64_t column =
      (static_cast<int64_t>(blockIdx.x % row_blocks) * kThreads + threadIdx.x) * N;
  if (column >= reduce.width) return;
  const T* input = static_cast<const T*>(reduce.input) + column * reduce.column_stride;
  [[maybe_unused]] const int64_t end =
      kIndexed && reduce.end != nullptr ? *reduce.end : reduce.input_rows;
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

template <class T, int N, bool kIndexed>
void LaunchVector(const char* op, const Reduce& reduce, cudaStream_t stream) {
  const int64_t row_blocks = CeilDiv(reduce.width, static_cast<int64_t>(N) * kThreads);
  const unsigned grid = GridX(op, reduce.tokens * row_blocks);
  if (reduce.topk <= 2) {
    LaunchPdl(op, ReduceKernel<T, N, 2, kIndexed>, grid, kThreads, 0, stream, reduce,
              static_cast<int>(row_blocks));
  } else {
    LaunchPdl(op, ReduceKernel<T, N, 8, kIndexed>, grid, kThreads, 0, stream, reduce,
              static_cast<int>(row_blocks));
  }
}

}  // namespace

void LaunchCopy(const char* op, const Copy& copy, cudaStream_t stream) {
  if (copy.rows == 0 || copy.bytes == 0) return;
  const int64_t places = reinterpret_cast<int64_t>(copy.input) |
                         reinterpret_cast<int64_t>(copy.output) | copy.input_stride |
                         copy.output_stride | copy.bytes;
  const unsigned grid = GridX(op, copy.rows);
  const auto launch = [&](auto word) {
    using Word = decltype(word);
    const int64_t words = copy.bytes / sizeof(Word);
    const int threads = static_cast<int>(std::min<int64_t>(kThreads, RoundUp(words, 32)));
    if (copy.fan == 0) {
      LaunchPdl(op, GatherKernel<Word>, grid, threads, 0, stream, copy);
    } else {
      LaunchPdl(op, ScatterKernel<Word>, grid, threads, 0, stream, copy);
    }
  };
  if (places % 16 == 0) {
    launch(uint4{});
  } else if (places % 4 == 0) {
    launch(uint32_t{});
  } else {
    launch(uint8_t{});
  }
}

void LaunchReduce(const char* op, int32_t dtype, bool aligned, const Reduce& reduce,
                  cudaStream_t stream) {
  if (reduce.tokens == 0 || reduce.width == 0) return;
  DispatchFloating(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    DispatchBool(reduce.rows != nullptr, [&](auto indexed) {
      constexpr bool kIndexed = decltype(indexed)::value;
      if (aligned) {
        LaunchVector<T, kVecSize<T>, kIndexed>(op, reduce, stream);
      } else {
        LaunchVector<T, 1, kIndexed>(op, reduce, stream);
      }
    });
  });
}

}  // namespace vk::cuda::moe_routing
