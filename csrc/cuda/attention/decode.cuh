// Decode: 16 query rows of one request and key/value head against a part of the keys
// (Flash-Decoding). Bound by memory: each warp has keys and a ring of copies of its own and waits
// for nobody until its part is done.
#ifndef VLLM_KERNELS_CUDA_ATTENTION_DECODE_CUH_
#define VLLM_KERNELS_CUDA_ATTENTION_DECODE_CUH_

#include <cstdint>

#include "cuda/attention/rows.cuh"
#include "cuda/attention/split.h"
#include "cuda/ptx/griddepcontrol.cuh"

namespace vk::cuda::attention {

constexpr int kDecodeRows = 16;

template <class T, class KV, int kHead>
struct DecodeTraits {
  // Of short rows more: a tile's latencies are those of fewer bytes else.
  static constexpr int kKeys = sizeof(KV) == 1 || kHead <= 64 ? 32 : 16;
  static constexpr int kStages = 3;
  static constexpr int kQueryBytes = kDecodeRows * kRowBytes<T, kHead>;
  static constexpr int kTileBytes = kKeys * kRowBytes<KV, kHead>;
  static constexpr int kWarpBytes = kStages * 2 * kTileBytes;
  static constexpr int kScratchRow = kHead + 8;  // floats
  static_assert(kDecodeRows * (kScratchRow + 2) * 4 <= kWarpBytes, "results fit where keys were");
  static constexpr int SharedBytes(int warps) { return kQueryBytes + warps * kWarpBytes; }
};

// Keys of a split: tiles [first, first + count) of the row tile's visible keys.
struct SplitTiles {
  KeyRange range;
  int32_t origin;       // first key of tile 0
  int32_t first, last;  // tiles
  int32_t used;         // splits that have tiles; at least 1
};

__device__ __forceinline__ SplitTiles LoadSplit(const Problem& p, const Request& request,
                                                int32_t first_row, int32_t split, int keys) {
  SplitTiles tiles;
  const int32_t first_token = first_row / p.group;
  const int32_t last_token = min(request.query_len - 1, (first_row + kDecodeRows - 1) / p.group);
  tiles.range = VisibleKeys(p, request, first_token, last_token);
  tiles.origin = tiles.range.begin - tiles.range.begin % keys;
  const int32_t total = (tiles.range.end - tiles.origin + keys - 1) / keys;
  const int32_t each = SplitLength(total, p.splits, p.min_split_tiles);
  tiles.used = max(1, (total + each - 1) / each);
  tiles.first = min(split * each, total);
  tiles.last = min(tiles.first + each, total);
  return tiles;
}

template <class T>
__device__ __forceinline__ void StoreRow(const Problem& p, const Request& request, int32_t kv_head,
                                         int32_t row, int32_t column, float value) {
  const int32_t token = row / p.group;
  const int32_t head = kv_head * p.group + row - token * p.group;
  static_cast<T*>(p.out)[(request.first_token + token) * p.out_token_stride +
                         head * p.out_head_stride + column] = FromFloat<T>(value);
}

__device__ __forceinline__ void StoreLse(const Problem& p, const Request& request, int32_t kv_head,
                                         int32_t row, float maximum, float sum) {
  const int32_t token = row / p.group;
  const int32_t head = kv_head * p.group + row - token * p.group;
  p.lse[head * p.lse_head_stride + request.first_token + token] =
      sum > 0.0f ? (maximum + log2f(sum)) * kLn2 : -INFINITY;
}

// Adds the row's sink; returns what the unnormalised output is multiplied with.
template <class T>
__device__ __forceinline__ float FinishRow(const Problem& p, int32_t kv_head, int32_t row,
                                           float v_scale, float& maximum, float& sum) {
  float factor = 1.0f;
  if (p.sinks != nullptr) {
    const float sink = SinkLogit<T>(p, kv_head * p.group + row % p.group);
    const float top = fmaxf(maximum, sink);
    if (top > -INFINITY) {
      factor = ptx::ex2_approx_ftz(maximum - top);
      sum = sum * factor + ptx::ex2_approx_ftz(sink - top);
      maximum = top;
    }
  }
  return sum > 0.0f ? factor * v_scale / sum : 0.0f;
}

__device__ __forceinline__ int64_t PartialRow(const Problem& p, int32_t split, int32_t request,
                                              int32_t kv_head, int32_t row) {
  return ((static_cast<int64_t>(split) * p.requests + request) * p.kv_heads + kv_head) *
             p.decode_rows +
         row;
}

template <class T, class KV, int kHead, bool kFast>
__global__ void __launch_bounds__(128) DecodeKernel(const __grid_constant__ Problem p) {
  // The next kernel is let in only now: it may read what the kernels before this one wrote.
  ptx::griddepcontrol_wait();
  ptx::griddepcontrol_launch_dependents();
  using Traits = DecodeTraits<T, KV, kHead>;
  using Tile = WarpTile<Operand<T, KV>, KV, kHead, 1, Traits::kKeys>;
  constexpr int kKeys = Traits::kKeys, kStages = Traits::kStages;
  extern __shared__ __align__(128) char shared[];

  const int32_t row_tiles = (p.decode_rows + kDecodeRows - 1) / kDecodeRows;
  const int32_t kv_head = blockIdx.x / row_tiles;
  const int32_t first_row = (blockIdx.x - kv_head * row_tiles) * kDecodeRows;
  const int32_t split = blockIdx.z;
  const Request request = LoadRequest(p, blockIdx.y);
  const int32_t rows = request.query_len * p.group;
  if (request.query_len > p.decode_query_len || first_row >= rows) return;
  const SplitTiles tiles = LoadSplit(p, request, first_row, split, kKeys);
  if (split >= tiles.used) return;

  const int warp = threadIdx.x / 32, warps = blockDim.x / 32, lane = threadIdx.x % 32;
  char* ring = shared + Traits::kQueryBytes + warp * Traits::kWarpBytes;
  const KeyCopier<KV, kHead, kKeys, 32, kFast, false> key_copier(p, request, kv_head, lane);
  const KeyCopier<KV, kHead, kKeys, 32, kFast, true> value_copier(p, request, kv_head, lane);

  // Tile `tile` goes to stage `stage`; its pages were read one tile before.
  Pages<kKeys> pages;
  pages.Load(p, key_copier.table, tiles.origin + (tiles.first + warp) * kKeys, tiles.range);
  auto copy = [&](int32_t tile, int stage) {
    if (tile < tiles.last) {
      char* keys = ring + stage * 2 * Traits::kTileBytes;
      const int32_t first_key = tiles.origin + tile * kKeys;
      const Pages<kKeys> now = pages;
      pages.Load(p, key_copier.table, first_key + warps * kKeys, tiles.range);
      key_copier.Copy(keys, now, first_key, tiles.range);
      value_copier.Copy(keys + Traits::kTileBytes, now, first_key, tiles.range);
    }
    ptx::cp_async_commit_group();
  };
  int32_t next = tiles.first + warp;
#pragma unroll 1
  for (int stage = 0; stage < kStages - 1; ++stage) {
    copy(next, stage);
    next += warps;
  }

  CopyQuery<T, Operand<T, KV>, kHead, kDecodeRows, kFast>(shared, p, request, kv_head, first_row);
  __syncthreads();
  Tile tile;
  tile.Start(shared);
  RowMask masks[1][2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int32_t row = first_row + lane / 4 + 8 * half;
    const int32_t token = row / p.group;
    masks[0][half] = LoadRowMask(p, request, token, kv_head * p.group + row - token * p.group);
  }
  const Logits logits = LoadLogits(p, request.index, kv_head);
  const int32_t last_token = min(request.query_len - 1, (first_row + kDecodeRows - 1) / p.group);
  const KeyRange all = KeysOfAll(p, request, first_row / p.group, last_token);

  int stage = 0;
#pragma unroll 1
  for (int32_t now = tiles.first + warp; now < tiles.last; now += warps) {
    ptx::cp_async_wait_group<kStages - 2>();
    __syncwarp();
    copy(next, stage == 0 ? kStages - 1 : stage - 1);
    next += warps;
    const char* keys = ring + stage * 2 * Traits::kTileBytes;
    const int32_t first_key = tiles.origin + now * kKeys;
    const bool masked = first_key < all.begin || first_key + kKeys > all.end;
    tile.Attend(shared, keys, keys + Traits::kTileBytes, first_key, logits, masks, masked);
    stage = stage == kStages - 1 ? 0 : stage + 1;
  }
  ptx::cp_async_wait_group<0>();
  __syncwarp();
  tile.Finish();

  // Results of the warps meet where their keys were.
  constexpr int kScratchRow = Traits::kScratchRow;
  constexpr int kStats = kDecodeRows * kScratchRow;
  float* scratch = reinterpret_cast<float*>(ring);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
#pragma unroll
    for (int block = 0; block < kHead / 8; ++block) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        scratch[row * kScratchRow + Tile::OutColumn(block, i)] = tile.out[0][block][2 * half + i];
      }
    }
    if (lane % 4 == 0) {
      scratch[kStats + 2 * row] = tile.maximum[0][half];
      scratch[kStats + 2 * row + 1] = tile.sum[0][half];
    }
  }
  __syncthreads();
  const float v_scale =
      Scale(p.v_scale, p.v_scale_request_stride, p.v_scale_head_stride, request.index, kv_head);
  constexpr int kWarpFloats = Traits::kWarpBytes / 4;
  const float* results = reinterpret_cast<const float*>(shared + Traits::kQueryBytes);
  for (int local = warp; local < kDecodeRows && first_row + local < rows; local += warps) {
    const int32_t row = first_row + local;
    float maximum = -INFINITY, sum = 0.0f;
    for (int w = 0; w < warps; ++w) {
      maximum = fmaxf(maximum, results[w * kWarpFloats + kStats + 2 * local]);
    }
    const float origin = maximum == -INFINITY ? 0.0f : maximum;
    for (int w = 0; w < warps; ++w) {
      const float* stats = results + w * kWarpFloats + kStats + 2 * local;
      sum += stats[1] * ptx::ex2_approx_ftz(stats[0] - origin);
    }
    const bool whole = tiles.used == 1;
    const int64_t partial = PartialRow(p, split, request.index, kv_head, row);
    float factor = 1.0f;
    if (whole) {
      float top = maximum;
      factor = FinishRow<T>(p, kv_head, row, v_scale, top, sum);
      if (p.lse != nullptr && lane == 0) StoreLse(p, request, kv_head, row, top, sum);
    } else if (lane == 0) {
      p.partial_lse[2 * partial] = maximum;
      p.partial_lse[2 * partial + 1] = sum;
    }
    for (int column = lane; column < p.value_head_size; column += 32) {
      float value = 0.0f;
      for (int w = 0; w < warps; ++w) {
        const float* result = results + w * kWarpFloats;
        value += result[local * kScratchRow + column] *
                 ptx::ex2_approx_ftz(result[kStats + 2 * local] - origin);
      }
      if (whole) {
        StoreRow<T>(p, request, kv_head, row, column, value * factor);
      } else {
        p.partial_out[partial * p.value_head_size + column] = value;
      }
    }
  }
}

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_CUDA_ATTENTION_DECODE_CUH_
