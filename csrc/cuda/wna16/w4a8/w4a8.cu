// Weights of 4 bits with float8 activations: what goes before and behind the product of 16-bit
// activations. A float8 is exact in bfloat16, and so is the product of a weight and its float8
// scale, so that nothing but the result is rounded.
#include "cuda/wna16/w4a8/launch.h"

#include <algorithm>

#include "cuda/common/launch.h"
#include "cuda/common/pdl.cuh"
#include "cuda/common/scan.cuh"
#include "cuda/common/vec.cuh"
#include "cuda/wna16/layout.h"

namespace vk::cuda::wna16 {
namespace {

constexpr int kThreads = 256;

// A thread makes one word of the output.
__global__ void __launch_bounds__(kThreads)
    Int4RepackKernel(const __grid_constant__ Int4Repack repack) {
  constexpr int kBits = 4, kPack = 8;
  const int64_t matrix = blockIdx.y;
  const int64_t words = static_cast<int64_t>(repack.k) * repack.n / kPack;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index == 0 && repack.strides != nullptr) repack.strides[matrix] = words;
  if (index >= words) return;
  const int64_t packed_tile = index / PackedTileWords(kBits);
  const int word = static_cast<int>(index % PackedTileWords(kBits));
  const int slices = repack.k / kPackedTileK;
  const int k0 = static_cast<int>(packed_tile % slices) * kPackedTileK;
  const int n0 = static_cast<int>(packed_tile / slices) * kPackedTileN;
  const uint32_t* const in = repack.in + matrix * repack.matrix_stride;
  uint32_t packed = 0;
#pragma unroll
  for (int element = 0; element < kPack; ++element) {
    const Place place = PackedTilePlace(kBits, word, element);
    const int row = k0 + place.k;
    const uint32_t source =
        in[row / kPack * repack.word_stride + (n0 + place.n) * repack.column_stride];
    packed |= (source >> (kBits * (row % kPack)) & 15) << (kBits * element);
  }
  // The sign's bit is the one that a bias of 8 turns.
  repack.out[matrix * words + index] = packed ^ 0x88888888u;
}

__global__ void __launch_bounds__(kThreads)
    PackScalesKernel(BFloat16* out, const E4M3* scales, int64_t count, int n, bool per_channel) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= count) return;
  const int64_t row = index / n;
  const int column = static_cast<int>(index - row * n);
  const int position = per_channel ? ChannelPosition(column) : GroupedPosition(column);
  out[row * n + position] = FromFloat<BFloat16>(ToFloat(scales[index]));
}

// 16 elements a thread.
__global__ void __launch_bounds__(kThreads)
    WidenKernel(BFloat16* out, const E4M3* a, int64_t lda, int64_t count, int vectors,
                int32_t* locks, int64_t lock_count) {
  constexpr int N = 16;
  PdlPrologue();
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (thread < lock_count) locks[thread] = 0;
  if (thread >= count) return;
  const int64_t row = thread / vectors, vector = thread - row * vectors;
  float x[N];
  ToFloats(LoadVec<N>(a + row * lda + vector * N), x);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float part[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; ++i) part[i] = x[half * N / 2 + i];
    StoreVec(out + thread * N + half * N / 2, FromFloats<BFloat16>(part));
  }
}

constexpr int kVector = 8;

// c[0 .. 8) *= row * columns[0 .. 8)
__device__ __forceinline__ void ScaleVector(BFloat16* c, float row, const float* columns) {
  float x[kVector];
  ToFloats(LoadVec<kVector>(c), x);
#pragma unroll
  for (int i = 0; i < kVector; ++i) x[i] *= row * columns[i];
  StoreVec(c, FromFloats<BFloat16>(x));
}

__global__ void __launch_bounds__(kThreads)
    RescaleKernel(BFloat16* c, const float* rows, const float* columns, int64_t count,
                  int vectors) {
  PdlPrologue();
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= count) return;
  const int64_t row = index / vectors, vector = index - row * vectors;
  ScaleVector(c + index * kVector, rows[row], columns + vector * kVector);
}

constexpr int kTileThreads = kW4A8MaxExperts;

// A block: as many experts as threads at most.
__global__ void __launch_bounds__(kTileThreads)
    ExpertTilesKernel(const __grid_constant__ ExpertRows e) {
  __shared__ int starts[kW4A8MaxExperts + 1], counts[kW4A8MaxExperts], scratch[32];
  PdlPrologue();
  const int expert = static_cast<int>(threadIdx.x);
  const bool there = expert < e.experts;
  const int64_t most = e.rows;
  const int count =
      there ? static_cast<int>(min(static_cast<int64_t>(max(e.sizes[3 * expert + 1], 0)), most))
            : 0;
  int all;
  const int tiles = (count + e.block - 1) / e.block;
  starts[expert] = ExclusiveSum<kTileThreads / 32>(tiles, scratch, &all);
  counts[expert] = count;
  all = min(all, e.tiles);
  if (expert == 0) {
    starts[kW4A8MaxExperts] = all;
    *e.padded = all * e.block;
  }
  __syncthreads();
  const int warp = expert / 32, lane = expert % 32;
  for (int owner = warp; owner < e.experts; owner += kTileThreads / 32) {
    const int begin = min(starts[owner], e.tiles), end = min(starts[owner + 1], e.tiles);
    const int64_t first = e.offsets[owner];
    for (int i = lane; i < (end - begin) * e.block; i += 32) {
      const int64_t row = first + i;
      const bool used = i < counts[owner] && row >= 0 && row < e.rows;
      e.sorted[begin * e.block + i] = static_cast<int32_t>(used ? row : e.rows);
    }
    for (int i = begin + lane; i < end; i += 32) e.owners[i] = owner;
  }
  for (int i = all * e.block + expert; i < e.tiles * e.block; i += kTileThreads) {
    e.sorted[i] = static_cast<int32_t>(e.rows);
  }
  for (int i = all + expert; i < e.tiles; i += kTileThreads) e.owners[i] = -1;
}

__global__ void __launch_bounds__(kThreads)
    RescaleExpertsKernel(BFloat16* c, const __grid_constant__ ExpertRows e, const float* columns,
                         int64_t count, int vectors) {
  PdlPrologue();
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= count) return;
  const int64_t place = index / vectors, vector = index - place * vectors;
  const int owner = e.owners[place / e.block];
  const int64_t row = e.sorted[place];
  if (owner < 0 || row >= e.rows) return;
  ScaleVector(c + (row * vectors + vector) * kVector, 1.0f,
              columns + (static_cast<int64_t>(owner) * vectors + vector) * kVector);
}

unsigned Blocks(const char* op, int64_t work) { return GridX(op, CeilDiv(work, kThreads)); }

}  // namespace

void LaunchInt4Repack(const char* op, const Int4Repack& repack, cudaStream_t stream) {
  const int64_t words = static_cast<int64_t>(repack.k) * repack.n / 8;
  const dim3 grid(Blocks(op, words), static_cast<unsigned>(repack.matrices));
  Int4RepackKernel<<<grid, kThreads, 0, stream>>>(repack);
  CheckLaunch(op);
}

void LaunchPackScales(const char* op, void* out, const void* scales, int64_t rows, int64_t groups,
                      int n, cudaStream_t stream) {
  const int64_t count = rows * n;
  if (count == 0) return;
  PackScalesKernel<<<Blocks(op, count), kThreads, 0, stream>>>(
      static_cast<BFloat16*>(out), static_cast<const E4M3*>(scales), count, n, groups == 1);
  CheckLaunch(op);
}

void LaunchWiden(const char* op, void* out, const void* a, int64_t lda, int64_t m, int64_t k,
                 int32_t* locks, int64_t lock_count, cudaStream_t stream) {
  const int64_t count = m * (k / 16);
  LaunchPdl(op, WidenKernel, Blocks(op, std::max(count, lock_count)), kThreads, 0, stream,
            static_cast<BFloat16*>(out), static_cast<const E4M3*>(a), lda, count,
            static_cast<int>(k / 16), locks, lock_count);
}

void LaunchRescale(const char* op, void* c, const float* rows, const float* columns, int64_t m,
                   int64_t n, cudaStream_t stream) {
  const int64_t count = m * (n / kVector);
  if (count == 0) return;
  LaunchPdl(op, RescaleKernel, Blocks(op, count), kThreads, 0, stream, static_cast<BFloat16*>(c),
            rows, columns, count, static_cast<int>(n / kVector));
}

void LaunchExpertTiles(const char* op, const ExpertRows& experts, cudaStream_t stream) {
  LaunchPdl(op, ExpertTilesKernel, 1, kTileThreads, 0, stream, experts);
}

void LaunchRescaleExperts(const char* op, void* c, const ExpertRows& experts, const float* columns,
                          int64_t n, cudaStream_t stream) {
  const int64_t count = static_cast<int64_t>(experts.tiles) * experts.block * (n / kVector);
  if (count == 0) return;
  LaunchPdl(op, RescaleExpertsKernel, Blocks(op, count), kThreads, 0, stream,
            static_cast<BFloat16*>(c), experts, columns, count, static_cast<int>(n / kVector));
}

}  // namespace vk::cuda::wna16
