// One warp's tile: kTiles x 16 query rows against kKeys keys in shared memory, by mma.sync.
//
// Registers follow the m16n8k16 fragments: lane 4 g + t holds rows g and g + 8. With float8 keys a
// 16-bit matrix load brings pairs, so the order within 16 elements of the head differs: both sides
// of the dot product and the output columns are permuted alike (HeadPair, OutColumn).
#ifndef VLLM_KERNELS_CUDA_ATTENTION_WARP_TILE_CUH_
#define VLLM_KERNELS_CUDA_ATTENTION_WARP_TILE_CUH_

#include <cstdint>

#include "cuda/attention/operand.cuh"
#include "cuda/attention/request.cuh"
#include "cuda/ptx/arithmetic.cuh"
#include "cuda/ptx/cvta.cuh"
#include "cuda/ptx/ldmatrix.cuh"
#include "cuda/ptx/mma.cuh"

namespace vk::cuda::attention {

// Bytes from one row to the next in shared memory: 16 more than the row, so that the eight rows of
// a matrix load lie in different banks.
template <class E, int kHead>
constexpr int kRowBytes = kHead * static_cast<int>(sizeof(E)) + 16;

// T: the type of the operands.
template <class T, class KV, int kHead, int kTiles, int kKeys>
struct WarpTile {
  static constexpr bool kFp8 = sizeof(KV) == 1;
  static constexpr int kSteps = kHead / 16;
  // Larger query fragments are read again for each tile of keys instead of being kept.
  static constexpr bool kKeepQuery = kTiles == 1 && kHead <= 128;
  static constexpr int kQueryRow = kRowBytes<T, kHead>;
  static constexpr int kKeyRow = kRowBytes<KV, kHead>;

  float out[kTiles][kHead / 8][4];
  float maximum[kTiles][2];
  float sum[kTiles][2];  // of this lane's columns until Finish()
  uint32_t query[kKeepQuery ? kTiles : 1][kKeepQuery ? kSteps : 1][4];

  __device__ __forceinline__ static int Lane() { return threadIdx.x & 31; }

  // Column of element `element` (0, 1) of out[.][block][.].
  __device__ __forceinline__ static int OutColumn(int block, int element) {
    const int t = Lane() & 3;
    if constexpr (kFp8) return (block / 2) * 16 + 4 * t + 2 * element + (block & 1);
    return block * 8 + 2 * t + element;
  }

  __device__ __forceinline__ static void LoadQuery(uint32_t (&a)[4], const char* rows, int tile,
                                                   int step) {
    const int lane = Lane();
    if constexpr (kFp8) {
      const char* row =
          rows + (tile * 16 + lane / 4) * kQueryRow + (step * 16 + 4 * (lane & 3)) * 2;
      const uint2 low = *reinterpret_cast<const uint2*>(row);
      const uint2 high = *reinterpret_cast<const uint2*>(row + 8 * kQueryRow);
      a[0] = low.x;
      a[1] = high.x;
      a[2] = low.y;
      a[3] = high.y;
    } else {
      ptx::ldmatrix_x4(a, ptx::cvta_to_shared(rows) + (tile * 16 + (lane & 15)) * kQueryRow +
                              (step * 16 + (lane >> 4) * 8) * 2);
    }
  }

  __device__ __forceinline__ void Start(const char* query_rows) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int block = 0; block < kHead / 8; ++block) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[tile][block][i] = 0.0f;
      }
      maximum[tile][0] = maximum[tile][1] = -INFINITY;
      sum[tile][0] = sum[tile][1] = 0.0f;
    }
    if constexpr (kKeepQuery) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step)
          LoadQuery(query[tile][step], query_rows, tile, step);
      }
    }
  }

  // scores[tile][n][.]: keys 8 n + 2 t and the next, rows g and g + 8.
  __device__ __forceinline__ void Scores(float (&scores)[kTiles][kKeys / 8][4],
                                         const char* query_rows, const char* keys) const {
    const int lane = Lane();
    const uint32_t base = ptx::cvta_to_shared(keys) + ((lane & 7) + ((lane >> 4) << 3)) * kKeyRow +
                          ((lane >> 3) & 1) * 16;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[tile][n][i] = 0.0f;
      }
    }
    // 32 bytes of the keys at once: 16 elements of 16 bits, 32 of 8 bits.
    constexpr int kSub = kFp8 ? 2 : 1;
#pragma unroll
    for (int step = 0; step < kSteps / kSub; ++step) {
      uint32_t a[kSub][kTiles][4];
#pragma unroll
      for (int sub = 0; sub < kSub; ++sub) {
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          if constexpr (kKeepQuery) {
#pragma unroll
            for (int i = 0; i < 4; ++i) a[sub][tile][i] = query[tile][step * kSub + sub][i];
          } else {
            LoadQuery(a[sub][tile], query_rows, tile, step * kSub + sub);
          }
        }
      }
#pragma unroll
      for (int pair = 0; pair < kKeys / 16; ++pair) {
        uint32_t r[4];
        ptx::ldmatrix_x4(r, base + pair * 16 * kKeyRow + step * 32);
        if constexpr (kFp8) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const uint32_t b0 = FromFp8<T>(r[i] & 0xffffu), b1 = FromFp8<T>(r[i] >> 16);
#pragma unroll
            for (int tile = 0; tile < kTiles; ++tile) {
              ptx::mma_m16n8k16<T>(scores[tile][2 * pair + i / 2], a[i & 1][tile], b0, b1,
                                   scores[tile][2 * pair + i / 2]);
            }
          }
        } else {
#pragma unroll
          for (int tile = 0; tile < kTiles; ++tile) {
            ptx::mma_m16n8k16<T>(scores[tile][2 * pair], a[0][tile], r[0], r[1],
                                 scores[tile][2 * pair]);
            ptx::mma_m16n8k16<T>(scores[tile][2 * pair + 1], a[0][tile], r[2], r[3],
                                 scores[tile][2 * pair + 1]);
          }
        }
      }
    }
  }

  // Online softmax of one tile of rows; scores become probabilities. `masked`: some row does not
  // see some key.
  __device__ __forceinline__ void Softmax(float (&scores)[kKeys / 8][4], int tile,
                                          int32_t first_key, const Logits& logits,
                                          const RowMask (&masks)[2], bool masked) {
    const int t = Lane() & 3;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      ToLogits<kKeys / 4>(
          logits, masks[half], masked,
          [&](int i) -> float& { return scores[i / 2][2 * half + i % 2]; },
          [&](int i) { return first_key + i / 2 * 8 + 2 * t + i % 2; });
      float top = -INFINITY;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
        top = fmaxf(top, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
      }
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
      const float before = maximum[tile][half];
      top = fmaxf(top, before);
      maximum[tile][half] = top;
      const float origin = top == -INFINITY ? 0.0f : top;
      const float factor = ptx::ex2_approx_ftz(before - origin);
      float total = 0.0f;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[n][2 * half + i];
          score = ptx::ex2_approx_ftz(score - origin);
          total += score;
        }
      }
      sum[tile][half] = sum[tile][half] * factor + total;
      // Most tiles leave the maxima of a warp's rows as they are.
      if (__any_sync(0xffffffffu, factor != 1.0f)) {
#pragma unroll
        for (int block = 0; block < kHead / 8; ++block) {
          out[tile][block][2 * half] *= factor;
          out[tile][block][2 * half + 1] *= factor;
        }
      }
    }
  }

  __device__ __forceinline__ void Values(const float (&weights)[kTiles][kKeys / 8][4],
                                         const char* values) {
    const int lane = Lane();
    const uint32_t base = ptx::cvta_to_shared(values) + (lane & 15) * kKeyRow + (lane >> 4) * 16;
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      uint32_t a[kTiles][4];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* pair = &weights[tile][2 * step + i / 2][2 * (i & 1)];
          a[tile][i] = PackPair<T>(pair[0], pair[1]);
        }
      }
      // 32 bytes of the values at once: two or four blocks of eight columns.
#pragma unroll
      for (int block = 0; block < kHead / 8; block += kFp8 ? 4 : 2) {
        uint32_t r[4];
        ptx::ldmatrix_x4_trans(
            r, base + step * 16 * kKeyRow + block * 8 * static_cast<int>(sizeof(KV)));
        if constexpr (kFp8) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const uint32_t selector = (i & 1) != 0 ? 0x31u : 0x20u;
            const uint32_t b0 = FromFp8<T>(__byte_perm(r[2 * (i / 2)], 0, selector) & 0xffffu);
            const uint32_t b1 = FromFp8<T>(__byte_perm(r[2 * (i / 2) + 1], 0, selector) & 0xffffu);
#pragma unroll
            for (int tile = 0; tile < kTiles; ++tile)
              ptx::mma_m16n8k16<T>(out[tile][block + i], a[tile], b0, b1, out[tile][block + i]);
          }
        } else {
#pragma unroll
          for (int tile = 0; tile < kTiles; ++tile) {
            ptx::mma_m16n8k16<T>(out[tile][block], a[tile], r[0], r[1], out[tile][block]);
            ptx::mma_m16n8k16<T>(out[tile][block + 1], a[tile], r[2], r[3], out[tile][block + 1]);
          }
        }
      }
    }
  }

  __device__ __forceinline__ void Attend(const char* query_rows, const char* keys,
                                         const char* values, int32_t first_key,
                                         const Logits& logits, const RowMask (&masks)[kTiles][2],
                                         bool masked) {
    float scores[kTiles][kKeys / 8][4];
    Scores(scores, query_rows, keys);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      Softmax(scores[tile], tile, first_key, logits, masks[tile], masked);
    }
    Values(scores, values);
  }

  // The lanes of a row hold parts of its sum until here.
  __device__ __forceinline__ void Finish() {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float& total = sum[tile][half];
        total += __shfl_xor_sync(0xffffffffu, total, 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
      }
    }
  }
};

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_CUDA_ATTENTION_WARP_TILE_CUH_
