#include <algorithm>

#include "cuda/moe_routing/launch.h"
#include "cuda/moe_routing/rows.cuh"

namespace vk::cuda::moe_routing {
namespace {

template <class T, int N, bool kIndexed>
void LaunchVector(const char* op, const Reduce& reduce, cudaStream_t stream) {
  const int64_t row_blocks = CeilDiv(reduce.width, static_cast<int64_t>(N) * kRowThreads);
  const unsigned grid = GridX(op, reduce.tokens * row_blocks);
  if (reduce.topk <= 2) {
    LaunchPdl(op, ReduceKernel<T, N, 2, kIndexed>, grid, kRowThreads, 0, stream, reduce,
              static_cast<int>(row_blocks));
  } else {
    LaunchPdl(op, ReduceKernel<T, N, 8, kIndexed>, grid, kRowThreads, 0, stream, reduce,
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
    const int threads = static_cast<int>(std::min<int64_t>(kRowThreads, RoundUp(words, 32)));
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
