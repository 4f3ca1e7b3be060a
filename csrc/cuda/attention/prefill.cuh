// Prefill on any GPU with tensor cores: a block of four warps takes a tile of query rows of one
// request and key/value head through all its keys (FlashAttention-2).
#ifndef VLLM_KERNELS_CUDA_ATTENTION_PREFILL_CUH_
#define VLLM_KERNELS_CUDA_ATTENTION_PREFILL_CUH_

#include <cstdint>

#include "cuda/attention/decode.cuh"
#include "cuda/attention/tile_map.cuh"

namespace vk::cuda::attention {

template <class T, class KV, int kHead>
struct PrefillTraits {
  static constexpr int kThreads = 128;
  // 32 rows a warp halve the reads of keys from shared memory; more columns, or the conversion of
  // float8 keys, leave no registers for them.
  static constexpr int kTiles = kHead <= (sizeof(KV) == 1 ? 64 : 128) ? 2 : 1;
  static constexpr int kRows = 64 * kTiles;
  static constexpr int kKeys = kHead <= 64 ? 64 : 32;
  static constexpr int kQueryBytes = kRows * kRowBytes<T, kHead>;
  static constexpr int kTileBytes = kKeys * kRowBytes<KV, kHead>;
  static constexpr int SharedBytes(int stages) { return kQueryBytes + stages * 2 * kTileBytes; }
};

template <class T, class KV, int kHead, bool kFast>
__global__ void __launch_bounds__(128)
    PrefillKernel(const __grid_constant__ Problem p, int stages) {
  using Traits = PrefillTraits<T, KV, kHead>;
  using Tile = WarpTile<Operand<T, KV>, KV, kHead, Traits::kTiles, Traits::kKeys>;
  constexpr int kKeys = Traits::kKeys, kRows = Traits::kRows;
  extern __shared__ __align__(128) char shared[];

  // The tiles with the most keys come first.
  const RowTile where = FindTile(p.query_start, p.requests, p.group, kRows,
                                 static_cast<int32_t>(gridDim.x - 1 - blockIdx.x));
  const int32_t kv_head = blockIdx.y;
  const Request request = LoadRequest(p, where.request);
  const int32_t rows = request.query_len * p.group;
  if (request.query_len <= p.decode_query_len || where.first_row >= rows) return;
  const int32_t first_token = where.first_row / p.group;
  const int32_t last_token = min(request.query_len - 1, (where.first_row + kRows - 1) / p.group);
  const KeyRange range = VisibleKeys(p, request, first_token, last_token);
  const KeyRange all = KeysOfAll(p, request, first_token, last_token);
  const int32_t origin = range.begin - range.begin % kKeys;

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  char* ring = shared + Traits::kQueryBytes;
  const KeyCopier<KV, kHead, kKeys, Traits::kThreads, kFast, false> key_copier(p, request, kv_head,
                                                                               threadIdx.x);
  const KeyCopier<KV, kHead, kKeys, Traits::kThreads, kFast, true> value_copier(p, request, kv_head,
                                                                                threadIdx.x);
  auto copy = [&](int32_t first_key, int stage) {
    if (first_key < range.end) {
      char* keys = ring + stage * 2 * Traits::kTileBytes;
      Pages<kKeys> pages;
      pages.Load(p, key_copier.table, first_key, range);
      key_copier.Copy(keys, pages, first_key, range);
      value_copier.Copy(keys + Traits::kTileBytes, pages, first_key, range);
    }
    ptx::cp_async_commit_group();
  };

  copy(origin, 0);
  CopyQuery<T, Operand<T, KV>, kHead, kRows, kFast>(shared, p, request, kv_head, where.first_row);
  __syncthreads();
  const char* query_rows = shared + warp * 16 * Traits::kTiles * Tile::kQueryRow;
  Tile tile;
  tile.Start(query_rows);
  RowMask masks[Traits::kTiles][2];
#pragma unroll
  for (int i = 0; i < 2 * Traits::kTiles; ++i) {
    const int32_t row = where.first_row + warp * 16 * Traits::kTiles + i * 8 + lane / 4;
    const int32_t token = row / p.group;
    masks[i / 2][i % 2] = LoadRowMask(p, request, token, kv_head * p.group + row - token * p.group);
  }
  const Logits logits = LoadLogits(p, request.index, kv_head);

  int stage = 0;
#pragma unroll 1
  for (int32_t first_key = origin; first_key < range.end; first_key += kKeys) {
    if (stages == 2) {
      copy(first_key + kKeys, stage ^ 1);
      ptx::cp_async_wait_group<1>();
    } else {
      ptx::cp_async_wait_group<0>();
    }
    __syncthreads();
    const char* keys = ring + stage * 2 * Traits::kTileBytes;
    const bool masked = first_key < all.begin || first_key + kKeys > all.end;
    tile.Attend(query_rows, keys, keys + Traits::kTileBytes, first_key, logits, masks, masked);
    __syncthreads();
    if (stages == 2) {
      stage ^= 1;
    } else {
      copy(first_key + kKeys, 0);
    }
  }
  ptx::cp_async_wait_group<0>();
  tile.Finish();

  const float v_scale =
      Scale(p.v_scale, p.v_scale_request_stride, p.v_scale_head_stride, request.index, kv_head);
#pragma unroll
  for (int i = 0; i < 2 * Traits::kTiles; ++i) {
    const int32_t row = where.first_row + warp * 16 * Traits::kTiles + i * 8 + lane / 4;
    if (row >= rows) continue;
    float maximum = tile.maximum[i / 2][i % 2], sum = tile.sum[i / 2][i % 2];
    const float factor = FinishRow<T>(p, kv_head, row, v_scale, maximum, sum);
    if (p.lse != nullptr && lane % 4 == 0) StoreLse(p, request, kv_head, row, maximum, sum);
    const int32_t token = row / p.group;
    const int32_t head = kv_head * p.group + row - token * p.group;
    T* out = static_cast<T*>(p.out) + (request.first_token + token) * p.out_token_stride +
             head * p.out_head_stride;
    // Columns come in aligned runs: two of one block, or four of two blocks with float8 keys.
    constexpr int kRun = Tile::kFp8 ? 2 : 1;
#pragma unroll
    for (int block = 0; block < kHead / 8; block += kRun) {
      const int column = Tile::OutColumn(block, 0);
      float values[2 * kRun];
#pragma unroll
      for (int j = 0; j < 2 * kRun; ++j) {
        values[j] = tile.out[i / 2][block + j % kRun][2 * (i % 2) + j / kRun] * factor;
      }
      if (p.out_vector && column + 2 * kRun <= p.value_head_size) {
        uint32_t* to = reinterpret_cast<uint32_t*>(out + column);
#pragma unroll
        for (int j = 0; j < kRun; ++j) to[j] = PackPair<T>(values[2 * j], values[2 * j + 1]);
      } else {
#pragma unroll
        for (int j = 0; j < 2 * kRun; ++j) {
          if (column + j < p.value_head_size) out[column + j] = FromFloat<T>(values[j]);
        }
      }
    }
  }
}

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_CUDA_ATTENTION_PREFILL_CUH_
