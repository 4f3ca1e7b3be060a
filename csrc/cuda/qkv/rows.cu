#include "cuda/common/pdl.cuh"
#include "cuda/common/quantize.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/common/vec.cuh"
#include "cuda/qkv/launch.h"

namespace vk::cuda::qkv {
namespace {

constexpr int kThreads = 256;
constexpr int kMostVectors = 2;  // of a thread

// Lanes of a row: 8, 16 or 32.
__host__ __device__ inline int LanesOf(int32_t width) {
  return width <= 8 * kVector ? 8 : width <= 16 * kVector ? 16 : 32;
}

template <class T>
__device__ __forceinline__ T* At(const Place& place, int64_t token, int64_t head, int column) {
  return static_cast<T*>(place.data) + token * place.token_stride + head * place.head_stride +
         column / kChunk * place.chunk_stride + column % kChunk;
}

__device__ __forceinline__ float ValueOf(const Scale& scale) {
  return scale.value == nullptr ? scale.constant : *scale.value;
}

// x as Q holds it.
template <class Q>
__device__ __forceinline__ Vec<Q, kVector> Quantised(const float (&x)[kVector],
                                                     const Scale& scale) {
  float y[kVector];
  const float value = ValueOf(scale);
  if (scale.multiply) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) y[i] = x[i] * value;
  } else {
    const Divisor divisor(value);
#pragma unroll
    for (int i = 0; i < kVector; ++i) y[i] = divisor.Quotient(x[i], 2.0f * kQuantMax<Q>);
  }
  return FromFloats<Q>(y);
}

// Four neighbours of a row of cosines or sines, or of weights: float32 or T.
template <class T>
__device__ __forceinline__ void LoadFour(const void* row, bool is_float, int64_t at,
                                         float (&x)[4]) {
  if (is_float) {
    ToFloats(LoadVec<4>(static_cast<const float*>(row) + at), x);
  } else {
    ToFloats(LoadVec<4>(static_cast<const T*>(row) + at), x);
  }
}

// The angles of a token; no position, no rotation.
struct Turns {
  __device__ __forceinline__ Turns(const Angles& angles, int64_t token, bool wanted) {
    if (!wanted) return;
    const int64_t position = angles.positions[token];
    known = position >= 0 && position < angles.max_position;
    cos_at = position * angles.cos_stride;
    sin_at = position * angles.sin_stride;
  }
  int64_t cos_at = 0, sin_at = 0;
  bool known = false;
};

// Pairs 2 i and 2 i + 1 of a vector, the first of them pair `pair` of the row.
template <class T>
__device__ __forceinline__ void RotateNeighbours(const Angles& angles, const Turns& turns, int pair,
                                                 float (&x)[kVector]) {
  float cos[4], sin[4];
  LoadFour<T>(angles.cos, angles.is_float, turns.cos_at + pair, cos);
  LoadFour<T>(angles.sin, angles.is_float, turns.sin_at + pair, sin);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float even = x[2 * i], odd = x[2 * i + 1];
    x[2 * i] = fmaf(even, cos[i], -odd * sin[i]);
    x[2 * i + 1] = fmaf(even, sin[i], odd * cos[i]);
  }
}

// Component i pairs with i + half: the other one is in `row`, which holds the whole rotated part.
// Halves are multiples of 4.
template <class T>
__device__ __forceinline__ void RotateHalves(const Angles& angles, const Turns& turns, int half,
                                             const float* row, int component, float (&x)[kVector]) {
#pragma unroll
  for (int part = 0; part < kVector; part += 4) {
    const int at = component + part;
    if (at >= 2 * half) continue;
    const bool low = at < half;
    const int pair = low ? at : at - half;
    float cos[4], sin[4];
    LoadFour<T>(angles.cos, angles.is_float, turns.cos_at + pair, cos);
    LoadFour<T>(angles.sin, angles.is_float, turns.sin_at + pair, sin);
    const Vec<float, 4> other = LoadVec<4>(row + (low ? at + half : at - half));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[part + i] = fmaf(x[part + i], cos[i], (low ? -other[i] : other[i]) * sin[i]);
    }
  }
}

// The largest of a tile, from that of each lane's vector.
__device__ __forceinline__ float MostOfTile(float most, int tile) {
  if (tile > 64) return ReduceLanes<128 / kVector>(most, Max());
  if (tile > 32) return ReduceLanes<64 / kVector>(most, Max());
  return ReduceLanes<32 / kVector>(most, Max());
}

// A row as the token's entry of the cache.
template <class T, int kVectors>
__device__ __forceinline__ void WriteCache(const Cached& cached, int64_t token, int64_t head,
                                           int lane, int lanes, int width, bool active,
                                           const Vec<T, kVector> (&held)[kVectors],
                                           const float (&x)[kVectors][kVector]) {
  const int64_t slot = active && token < cached.tokens ? cached.slots[token] : -1;
  const bool kept = slot >= 0 && slot < cached.slot_limit;
  const FastDiv::Result at = cached.block_size(kept ? static_cast<uint32_t>(slot) : 0);
  uint8_t* entry = cached.data + int64_t{at.quotient} * cached.block_bytes +
                   int64_t{at.remainder} * cached.slot_bytes + head * cached.head_bytes;
  // All lanes of the warp take part, whatever of theirs is kept.
  float most[kVectors];
  if (cached.format == Format::kTiles) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) most[v] = MostOfTile(AbsMax(0.0f, held[v]), cached.tile);
  }
  if (!kept) return;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int column = (v * lanes + lane) * kVector;
    if (column >= width) continue;
    if (cached.format == Format::kTiles) {
      if (column >= cached.tiled_width) {
        T* rest = reinterpret_cast<T*>(entry + cached.tiled_width) + column - cached.tiled_width;
        StoreVec(rest, held[v]);
        continue;
      }
      const float raw = __fdiv_rn(fmaxf(most[v], cached.least), kQuantMax<E4M3>);
      const uint32_t exponent = CeilExponent(raw);
      // The reciprocal of a power of two is exact; that of infinity is 0.
      const float inverse = exponent < 254 ? __uint_as_float((254 - exponent) << 23) : 0.0f;
      float y[kVector];
#pragma unroll
      for (int i = 0; i < kVector; ++i) y[i] = x[v][i] * inverse;
      StoreVec(reinterpret_cast<E4M3*>(entry) + column, FromFloats<E4M3>(y));
      if (column % cached.tile != 0) continue;
      const int index = column / cached.tile;
      uint8_t* powers = cached.powers + int64_t{at.quotient} * cached.power_block_bytes +
                        int64_t{at.remainder} * cached.power_slot_bytes;
      if (cached.float_powers) {
        reinterpret_cast<float*>(powers)[index] = __uint_as_float(exponent << 23);
      } else {
        powers[index] = static_cast<uint8_t>(exponent);
        if (index == 0 && cached.pad_powers) powers[cached.tiled_width / cached.tile] = 0;
      }
    } else if (cached.format == Format::kSame) {
      StoreVec(reinterpret_cast<T*>(entry) + column, held[v]);
    } else if (cached.format == Format::kE4M3) {
      StoreVec(reinterpret_cast<E4M3*>(entry) + column, Quantised<E4M3>(x[v], cached.scale));
    } else {
      StoreVec(reinterpret_cast<E5M2*>(entry) + column, Quantised<E5M2>(x[v], cached.scale));
    }
  }
}

// A row for each kLanes lanes; a lane has every kLanes-th vector of it.
template <class T, int kLanes, int kVectors>
__device__ __forceinline__ void RunRow(const Problem& p, const Stream& s, uint32_t block,
                                       float* exchange) {
  uint32_t index = block * (kThreads / kLanes) + threadIdx.x / kLanes;
  const bool active = index < s.count;  // all lanes of a warp take part in the shuffles
  if (!active) index = s.count - 1;
  const FastDiv::Result at = s.heads(index);
  const int64_t token = at.quotient, head = at.remainder;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const bool real = at.remainder < s.real_heads;
  const Turns turns(p.angles, token, s.half > 0);
  Vec<T, kVector> held[kVectors];
  float x[kVectors][kVector], sum = 0.0f;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int column = (v * kLanes + lane) * kVector;
    if (real && column < s.width) {
      held[v] = LoadVec<kVector>(At<const T>(s.from, token, head, column));
    } else {
      memset(static_cast<void*>(&held[v]), 0, sizeof(held[v]));
    }
    ToFloats(held[v], x[v]);
#pragma unroll
    for (int i = 0; i < kVector; ++i) sum = fmaf(x[v][i], x[v][i], sum);
  }
  if (s.norm) {
    sum = ReduceLanes<kLanes>(sum, Sum());
    const float factor = rsqrtf(__fdiv_rn(sum, static_cast<float>(s.width)) + p.epsilon);
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int column = (v * kLanes + lane) * kVector;
      if (!real) continue;  // without an epsilon the factor is infinite
#pragma unroll
      for (int i = 0; i < kVector; ++i) x[v][i] *= factor;
      if (s.weight != nullptr && column < s.width) {
#pragma unroll
        for (int part = 0; part < kVector; part += 4) {
          float weight[4];
          LoadFour<T>(s.weight, s.float_weight, column + part, weight);
#pragma unroll
          for (int i = 0; i < 4; ++i) x[v][part + i] *= weight[i] + s.weight_bias;
        }
      }
      if (s.round_norm) RoundAll<T>(x[v]);
    }
  }
  if (s.half > 0) {
    float* row = exchange + threadIdx.x / kLanes * (kLanes * kVectors * kVector);
    if (s.neox) {
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const int column = (v * kLanes + lane) * kVector;
#pragma unroll
        for (int part = 0; part < kVector; part += 4) {
          const float four[4] = {x[v][part], x[v][part + 1], x[v][part + 2], x[v][part + 3]};
          StoreVec(row + column + part, FromFloats<float>(four));
        }
      }
      __syncwarp();
    }
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int component = (v * kLanes + lane) * kVector - s.first;
      if (!turns.known || component < 0 || component >= 2 * s.half) continue;
      if (s.neox) {
        RotateHalves<T>(p.angles, turns, s.half, row + s.first, component, x[v]);
      } else {
        RotateNeighbours<T>(p.angles, turns, component / 2, x[v]);
      }
    }
  }
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int column = (v * kLanes + lane) * kVector;
    const int component = column - s.first;
    // What nothing has changed keeps its bits, whatever they are.
    if (real && (s.norm || (turns.known && component >= 0 && component < 2 * s.half))) {
      held[v] = FromFloats<T>(x[v]);
      if (!s.exact) ToFloats(held[v], x[v]);
    }
    if (!active || column >= s.width) continue;
    if (s.same.data != nullptr) StoreVec(At<T>(s.same, token, head, column), held[v]);
    if (s.quantised.data != nullptr) {
      StoreVec(At<E4M3>(s.quantised, token, head, column), Quantised<E4M3>(x[v], s.scale));
    }
  }
  if (s.cached.format != Format::kNone) {
    WriteCache(s.cached, token, head, lane, kLanes, s.width, active, held, x);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) RowsKernel(const __grid_constant__ Problem p) {
  __shared__ Vec<float, 4> exchange[kThreads * kMostVectors * kVector / 4];
  PdlPrologue();
  int which = 0;
  while (which + 1 < p.count && blockIdx.x >= p.streams[which + 1].first_block) ++which;
  const Stream& s = p.streams[which];
  const uint32_t block = blockIdx.x - s.first_block;
  const int lanes = LanesOf(s.width);
  if (lanes == 8) {
    RunRow<T, 8, 1>(p, s, block, exchange[0].data);
  } else if (lanes == 16) {
    RunRow<T, 16, 1>(p, s, block, exchange[0].data);
  } else if (s.width <= 32 * kVector) {
    RunRow<T, 32, 1>(p, s, block, exchange[0].data);
  } else {
    RunRow<T, 32, kMostVectors>(p, s, block, exchange[0].data);
  }
}

}  // namespace

void LaunchRows(const char* op, Problem& problem, int32_t dtype, cudaStream_t stream) {
  int64_t blocks = 0;
  int32_t kept = 0;
  for (int32_t i = 0; i < problem.count; ++i) {
    Stream& one = problem.streams[i];
    if (one.count == 0) continue;
    one.first_block = GridX(op, blocks);
    blocks += CeilDiv(int64_t{one.count} * LanesOf(one.width), kThreads);
    problem.streams[kept++] = one;
  }
  problem.count = kept;
  if (kept == 0) return;
  const auto kernel = dtype == VK_BF16 ? RowsKernel<BFloat16> : RowsKernel<Half>;
  LaunchPdl(op, kernel, dim3(GridX(op, blocks)), kThreads, 0, stream, problem);
}

}  // namespace vk::cuda::qkv
