// A tile of 64 rows (a query's head each): where its queries come from and its results go.
#ifndef VLLM_KERNELS_CUDA_MLA_TILE_CUH_
#define VLLM_KERNELS_CUDA_MLA_TILE_CUH_

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "cuda/mla/consumer.cuh"
#include "cuda/mla/producer.cuh"
#include "cuda/mla/storage.cuh"
#include "cuda/ptx/cp_async.cuh"
#include "cuda/ptx/fence.cuh"
#include "cuda/ptx/named_barrier.cuh"
#include "cuda/ptx/tma.cuh"

namespace vk::cuda::mla {

// Rows `first_row` and on of the queries of a batch entry, row = query * heads + head.
struct Tile {
  int32_t entry, first_row, rows;  // rows: at most kRows
  int64_t partial;                 // place among the partial results; -1: these are whole

  __device__ __forceinline__ int64_t Offset(const Problem& p, int row, int64_t batch_stride,
                                            int64_t token_stride, int64_t head_stride) const {
    const int32_t at = first_row + row, token = at / p.heads;
    return entry * batch_stride + token * token_stride + (at - token * p.heads) * head_stride;
  }
};

// Where a row of the tile's queries is.
template <class T>
__device__ __forceinline__ const T* QueryOf(const Problem& p, const Tile& tile, int row) {
  return static_cast<const T*>(p.query) +
         tile.Offset(p, row, p.query_batch_stride, p.query_token_stride, p.query_head_stride);
}

// A producer's warp asks for the tile's queries, which its consumers will want once they have
// finished the tile before.
template <class T>
__device__ __forceinline__ void AskForQueries(const Problem& p, const Tile& tile) {
#pragma unroll 1
  for (int row = static_cast<int>(threadIdx.x) % 32; row < tile.rows; row += 32) {
    ptx::bulk_prefetch_l2(QueryOf<T>(p, tile, row), kHead * static_cast<int>(sizeof(T)));
  }
}

// The tile's queries, by the consumers. Rows that are not there are zeros.
template <class T, class Producer>
__device__ __forceinline__ void LoadQueries(const Problem& p, const Tile& tile,
                                            SharedStorage<T>& storage) {
  // The tile before is stored.
  ptx::named_barrier_sync(static_cast<int>(NamedBarrier::kConsumers), kConsumerThreads);
  constexpr int kChunkItems = 16 / sizeof(T), kChunks = kHead / kChunkItems;
  const int thread = threadIdx.x, warp = thread / 32 - Producer::kWarps, lane = thread % 32;
#pragma unroll 2
  for (int row = warp; row < kRows; row += kConsumerThreads / 32) {
    const bool valid = row < tile.rows;
    const T* query = valid ? QueryOf<T>(p, tile, row) : static_cast<const T*>(p.query);
#pragma unroll
    for (int chunk = lane; chunk < kChunks; chunk += 32) {
      ptx::cp_async_cg(storage.query[chunk / 8] + Swizzled(row, chunk % 8),
                       query + (valid ? chunk * kChunkItems : 0), valid);
    }
  }
  ptx::cp_async_commit_group();
  ptx::cp_async_wait_group<0>();
  ptx::fence_proxy_async();
  ptx::named_barrier_sync(static_cast<int>(NamedBarrier::kConsumers), kConsumerThreads);
}

// Rows of the whole result, through the memory of the queries, which no product reads any more.
template <class T, int kGroup>
__device__ __forceinline__ void StoreOut(const Problem& p, const Tile& tile,
                                         const Consumer<T, kGroup>& consumer,
                                         SharedStorage<T>& storage, const float (&factors)[2]) {
  const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
  char* panels = storage.query[kGroup * kHalfPanels];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = RowOf(half);
#pragma unroll
    for (int block = 0; block < kOut / 4; ++block) {
      *reinterpret_cast<uint32_t*>(panels + block / 8 * kPanelBytes + Swizzled(row, block % 8) +
                                   lane % 4 * 4) =
          PackPair<Result<T>>(consumer.out[4 * block + 2 * half] * factors[half],
                              consumer.out[4 * block + 2 * half + 1] * factors[half]);
    }
  }
  __syncwarp();
#pragma unroll 4
  for (int i = 0; i < 16; ++i) {
    const int row = warp * 16 + i;
    if (row >= tile.rows) break;
    Result<T>* out = static_cast<Result<T>*>(p.out) +
                     tile.Offset(p, row, p.out_batch_stride, p.out_token_stride, p.out_head_stride);
    *reinterpret_cast<uint4*>(out + kGroup * (kLatent / kHalves) + lane * 8) =
        *reinterpret_cast<const uint4*>(panels + lane / 8 * kPanelBytes + Swizzled(row, lane % 8));
  }
}

template <class T, int kGroup>
__device__ __forceinline__ void StorePartial(const Problem& p, const Tile& tile,
                                             const Consumer<T, kGroup>& consumer,
                                             const float (&factors)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = RowOf(half);
    if (row >= tile.rows) continue;
    float* out = p.partial_out + (tile.partial * kRows + row) * kLatent +
                 kGroup * (kLatent / kHalves) + threadIdx.x % 4 * 2;
#pragma unroll
    for (int block = 0; block < kOut / 4; ++block) {
      *reinterpret_cast<float2*>(out + block * 8) = {
          consumer.out[4 * block + 2 * half] * factors[half],
          consumer.out[4 * block + 2 * half + 1] * factors[half]};
    }
  }
}

// What a row's unnormalised output is multiplied with, `total` being the sum of its weights
// relative to `origin` (base 2) without that of the sink.
__device__ __forceinline__ float Normalizer(float total, float origin, const float* sink,
                                            int32_t head) {
  if (!(total > 0.0f)) return total == 0.0f ? 0.0f : total;  // no key; NaN
  if (sink != nullptr) total += exp2f(sink[head] * 1.4426950408889634f - origin);
  return 1.0f / total;
}

// Natural logarithm; +inf without a key, as FlashMLA has it. `row` is of the batch entry.
__device__ __forceinline__ void StoreLse(const Problem& p, int32_t entry, int32_t row, float total,
                                         float origin, float top) {
  const int32_t token = row / p.heads, head = row - token * p.heads;
  const int64_t at = (int64_t{entry} * p.heads + head) * p.queries + token;
  constexpr float kLn2 = 0.6931471805599453f;
  p.lse[at] = total == 0.0f ? INFINITY : (origin + log2f(total)) * kLn2;
  if (p.max_logits != nullptr) p.max_logits[at] = top * kLn2;
}

__device__ __forceinline__ float ScaleAt(const float* scale) {
  return scale == nullptr ? 1.0f : __ldg(scale);
}

template <class T, int kGroup>
__device__ __forceinline__ void Finish(const Problem& p, const Tile& tile,
                                       Consumer<T, kGroup>& consumer, SharedStorage<T>& storage) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    consumer.sum[half] += __shfl_xor_sync(0xffffffffu, consumer.sum[half], 1);
    consumer.sum[half] += __shfl_xor_sync(0xffffffffu, consumer.sum[half], 2);
  }
  float others[2], factors[2];
  consumer.SendRows(consumer.sum);
  ptx::named_barrier_sync(static_cast<int>(NamedBarrier::kConsumers), kConsumerThreads);
  consumer.ReceiveRows(others);
  const bool whole = tile.partial < 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = RowOf(half);
    factors[half] = 0.0f;
    if (row >= tile.rows) continue;
    const float total = consumer.sum[half] + others[half];
    const float origin = consumer.WeightOrigin(consumer.maximum[half]);
    const int32_t at = tile.first_row + row;
    factors[half] = Normalizer(total, origin, whole ? p.sink : nullptr, at % p.heads);
    if constexpr (kFloat8<T>) factors[half] *= ScaleAt(p.cache_scale);
    if (kGroup != 0 || threadIdx.x % 4 != 0) continue;
    const float top = consumer.maximum[half] * consumer.scale;
    if (whole) {
      StoreLse(p, tile.entry, at, total, origin, top);
    } else {
      float2* lse = reinterpret_cast<float2*>(p.partial_lse) + tile.partial * kRows + row;
      *lse = {total == 0.0f ? -INFINITY : origin + log2f(total), top};
    }
  }
  if (whole) {
    StoreOut(p, tile, consumer, storage, factors);
  } else {
    StorePartial(p, tile, consumer, factors);
  }
}

__device__ __forceinline__ void AddWeighted(float4& sum, float weight, const float4& four) {
  sum.x = fmaf(weight, four.x, sum.x);
  sum.y = fmaf(weight, four.y, sum.y);
  sum.z = fmaf(weight, four.z, sum.z);
  sum.w = fmaf(weight, four.w, sum.w);
}

// Who puts partial results of a row together: a warp; the four warps of a block, which have a
// quarter of its columns each; or four blocks (blockIdx.z) with a quarter each, in which warps have
// partial results each.
enum class MergeBy { kWarp, kColumns, kResults };
constexpr int kMergeWarps = 4, kMergeThreads = 32 * kMergeWarps;
template <MergeBy kBy>
constexpr int kVectors = kBy == MergeBy::kWarp ? kLatent / 4 / 32 : 1;  // four columns a lane, each

template <MergeBy kBy>
struct MergeStorage {
  // Partial results that a warp reads at once.
  static constexpr int kAhead = 16 / kVectors<kBy>;
  float4 parts[kMergeWarps][kAhead][kVectors<kBy>][32];
  float4 sums[kMergeWarps][32];  // kResults: from warp to warp
  float totals[kMergeWarps];
};

// `count` partial results of a row of a tile, at the tiles at(0), at(1) ..., become its whole
// result.
template <class T, MergeBy kBy, class At>
__device__ __forceinline__ void MergeRow(const Problem& p, const Tile& tile, int row, int32_t count,
                                         const At& at) {
  extern __shared__ char unaligned[];
  using Storage = MergeStorage<kBy>;
  auto& storage = *reinterpret_cast<Storage*>(unaligned);
  constexpr int kAhead = Storage::kAhead, kTeam = kBy == MergeBy::kResults ? kMergeWarps : 1;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, member = kTeam == 1 ? 0 : warp;
  auto& parts = storage.parts[warp];
  int first = lane;  // of the lane's columns, in fours
  if (kBy == MergeBy::kColumns) first += warp * 32;
  if (kBy == MergeBy::kResults) first += static_cast<int>(blockIdx.z) * 32;
  const float2* lse = reinterpret_cast<const float2*>(p.partial_lse);
  float origin = -INFINITY, top = -INFINITY;
  for (int32_t i = lane; i < count; i += 32) {
    const float2 one = lse[at(i) * kRows + row];
    origin = fmaxf(origin, one.x);
    top = fmaxf(top, one.y);
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    origin = fmaxf(origin, __shfl_xor_sync(0xffffffffu, origin, distance));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, distance));
  }
  if (origin == -INFINITY) origin = 0.0f;
  float total = 0.0f;
  float4 sums[kVectors<kBy>];
#pragma unroll
  for (float4& sum : sums) sum = make_float4(0, 0, 0, 0);
  // Lanes know a weight each.
#pragma unroll 1
  for (int32_t base = 0; base < count; base += 32 * kTeam) {
    const auto index = [&](int i) { return base + i * kTeam + member; };
    const bool known = index(lane) < count;
    const float weight = known ? exp2f(lse[at(index(lane)) * kRows + row].x - origin) : 0.0f;
    total += weight;
#pragma unroll 1
    for (int i = 0; i < 32 && index(i) < count; i += kAhead) {
#pragma unroll
      for (int ahead = 0; ahead < kAhead; ++ahead) {
        // Without a key its partial output is 0.
        const bool there = index(i + ahead) < count;
        const int64_t partial = at(there ? index(i + ahead) : 0) * kRows + row;
        const float4* part = reinterpret_cast<const float4*>(p.partial_out + partial * kLatent);
#pragma unroll
        for (int j = 0; j < kVectors<kBy>; ++j) {
          ptx::cp_async_cg(&parts[ahead][j][lane], part + first + 32 * j, there);
        }
      }
      ptx::cp_async_commit_group();
      ptx::cp_async_wait_group<0>();
#pragma unroll
      for (int ahead = 0; ahead < kAhead; ++ahead) {
        const float of = __shfl_sync(0xffffffffu, weight, i + ahead);
#pragma unroll
        for (int j = 0; j < kVectors<kBy>; ++j) AddWeighted(sums[j], of, parts[ahead][j][lane]);
      }
    }
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    total += __shfl_xor_sync(0xffffffffu, total, distance);
  }
  if constexpr (kTeam > 1) {
    storage.sums[member][lane] = sums[0];
    if (lane == 0) storage.totals[member] = total;
    __syncthreads();
    if (member != 0) return;
#pragma unroll
    for (int other = 1; other < kTeam; ++other) {
      AddWeighted(sums[0], 1.0f, storage.sums[other][lane]);
      total += storage.totals[other];
    }
  }
  const int32_t tile_row = tile.first_row + row;
  const float factor = Normalizer(total, origin, p.sink, tile_row % p.heads);
  T* out = static_cast<T*>(p.out) +
           tile.Offset(p, row, p.out_batch_stride, p.out_token_stride, p.out_head_stride);
#pragma unroll
  for (int j = 0; j < kVectors<kBy>; ++j) {
    reinterpret_cast<uint2*>(out)[first + 32 * j] = {
        PackPair<T>(sums[j].x * factor, sums[j].y * factor),
        PackPair<T>(sums[j].z * factor, sums[j].w * factor)};
  }
  if (first == 0) StoreLse(p, tile.entry, tile_row, total, origin, top);
}

}  // namespace vk::cuda::mla
#endif  // VLLM_KERNELS_CUDA_MLA_TILE_CUH_
