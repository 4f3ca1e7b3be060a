#include "cuda/common/pdl.cuh"
#include "cuda/common/vec.cuh"
#include "cuda/sampling/launch.h"

namespace vk::cuda::sampling {
namespace {

constexpr int kThreads = 128;
constexpr int kUnits = 4;  // units of a thread, whose loads are on their way together

// A part of a row a block; rows are copied as units of kBytes bytes.
template <class Token, int kBytes>
__global__ void __launch_bounds__(kThreads)
    EmbeddingKernel(const __grid_constant__ Embedding e, const int row_blocks) {
  PdlPrologue();
  using Unit = Vec<uint8_t, kBytes>;
  const int64_t place = blockIdx.x / row_blocks;
  const int64_t token = static_cast<const Token*>(e.tokens)[place];
  int64_t row = -1;
  if (token >= e.start && token < e.end) {
    row = token - e.start;
  } else if (token >= e.added_start && token < e.added_end) {
    row = token - e.added_start + e.added_row;
  }
  const int64_t units = e.width / kBytes;
  const int64_t first =
      static_cast<int64_t>(blockIdx.x % row_blocks) * (kThreads * kUnits) + threadIdx.x;
  const uint8_t* from = static_cast<const uint8_t*>(e.weight) + row * e.stride;
  uint8_t* to = static_cast<uint8_t*>(e.out) + place * e.width;
  Unit held[kUnits] = {};
  if (row >= 0) {
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      const int64_t unit = first + i * kThreads;
      if (unit < units) held[i] = LoadVec<kBytes>(from + unit * kBytes);
    }
  }
#pragma unroll
  for (int i = 0; i < kUnits; ++i) {
    const int64_t unit = first + i * kThreads;
    if (unit < units) StoreVec(to + unit * kBytes, held[i]);
  }
}

}  // namespace

void LaunchEmbedding(const char* op, bool wide_tokens, int64_t unit, const Embedding& embedding,
                     cudaStream_t stream) {
  if (embedding.count == 0 || embedding.width == 0) return;
  const int64_t row_blocks = CeilDiv(embedding.width / unit, kThreads * kUnits);
  const unsigned grid = GridX(op, embedding.count * row_blocks);
  const auto launch = [&](auto token, auto bytes) {
    using Token = decltype(token);
    LaunchPdl(op, EmbeddingKernel<Token, decltype(bytes)::value>, grid, kThreads, 0, stream,
              embedding, static_cast<int>(row_blocks));
  };
  const auto with_tokens = [&](auto bytes) {
    if (wide_tokens) {
      launch(int64_t{}, bytes);
    } else {
      launch(int32_t{}, bytes);
    }
  };
  if (unit == 16) {
    with_tokens(std::integral_constant<int, 16>{});
  } else if (unit == 4) {
    with_tokens(std::integral_constant<int, 4>{});
  } else {
    with_tokens(std::integral_constant<int, 1>{});
  }
}

}  // namespace vk::cuda::sampling
