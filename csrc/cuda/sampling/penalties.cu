#include "cuda/common/pdl.cuh"
#include "cuda/common/vec.cuh"
#include "cuda/sampling/launch.h"

namespace vk::cuda::sampling {
namespace {

constexpr int kThreads = 256;
constexpr int kColumns = 16;  // 16 bytes of each mask,
constexpr int kVectors = 2;   // and so many of these a thread

template <class T>
__device__ __forceinline__ T Penalised(T logit, float penalty) {
  const float x = ToFloat(logit);
  return FromFloat<T>(x > 0.0f ? x / penalty : x * penalty);
}

// A bit for each of the four bytes of `word` that is not 0, from the low one up.
__device__ __forceinline__ uint32_t NonZeroBytes(uint32_t word) {
  const uint32_t ones = __vcmpne4(word, 0) & 0x01010101u;
  return ones * 0x10204080u >> 28;
}

// Masks are read whole, logits only where a mask is set: few tokens of the vocabulary are.
template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    PenaltiesKernel(const __grid_constant__ Penalties p, const int row_blocks) {
  PdlPrologue();
  const int64_t row = blockIdx.x / row_blocks;
  const float penalty = ToFloat(static_cast<const T*>(p.penalties)[row]);
  T* logits = static_cast<T*>(p.logits) + row * p.logits_stride;
  const uint8_t* prompt = p.prompt + row * p.prompt_stride;
  const uint8_t* output = p.output + row * p.output_stride;
  const int64_t start =
      static_cast<int64_t>(blockIdx.x % row_blocks) * kThreads * kColumns * kVectors;
  if constexpr (kAligned) {
    uint4 masks[kVectors][2];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int64_t first = start + (v * kThreads + static_cast<int>(threadIdx.x)) * kColumns;
      masks[v][0] = masks[v][1] = make_uint4(0, 0, 0, 0);
      if (first + kColumns <= p.width) {
        masks[v][0] = __ldcs(reinterpret_cast<const uint4*>(prompt + first));
        masks[v][1] = __ldcs(reinterpret_cast<const uint4*>(output + first));
      }
    }
    uint64_t set = 0;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const uint4 &a = masks[v][0], &b = masks[v][1];
      const uint32_t words[4] = {a.x | b.x, a.y | b.y, a.z | b.z, a.w | b.w};
#pragma unroll
      for (int word = 0; word < 4; ++word) {
        set |= static_cast<uint64_t>(NonZeroBytes(words[word])) << (kColumns * v + 4 * word);
      }
    }
    // Lanes have few, at different places: one after the other, whatever the place, and two on
    // their way together.
    const auto at = [&](int bit) {
      return logits + start +
             (bit / kColumns * kThreads + static_cast<int>(threadIdx.x)) * kColumns +
             bit % kColumns;
    };
    while (set != 0) {
      T* const one = at(__ffsll(static_cast<long long>(set)) - 1);
      set &= set - 1;
      T* const two = set != 0 ? at(__ffsll(static_cast<long long>(set)) - 1) : one;
      set &= set - 1;
      const T x = *one, y = *two;
      *one = Penalised(x, penalty);
      if (two != one) *two = Penalised(y, penalty);
    }
    // The columns after the last whole vector.
    const int64_t tail = p.width / kColumns * kColumns;
    if (start <= tail && tail < start + int64_t{kThreads} * kColumns * kVectors) {
      const int64_t i = tail + threadIdx.x;
      if (i < p.width && (prompt[i] | output[i])) logits[i] = Penalised(logits[i], penalty);
    }
  } else {
    // Neighbouring threads take neighbouring columns.
    for (int j = 0; j < kColumns * kVectors; ++j) {
      const int64_t i = start + j * kThreads + threadIdx.x;
      if (i < p.width && (prompt[i] | output[i])) logits[i] = Penalised(logits[i], penalty);
    }
  }
}

}  // namespace

void LaunchPenalties(const char* op, int32_t dtype, bool aligned, const Penalties& penalties,
                     cudaStream_t stream) {
  if (penalties.rows == 0 || penalties.width == 0) return;
  const int64_t row_blocks = CeilDiv(penalties.width, kThreads * kColumns * kVectors);
  const unsigned grid = GridX(op, penalties.rows * row_blocks);
  DispatchFloating(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    DispatchBool(aligned, [&](auto whole) {
      LaunchPdl(op, PenaltiesKernel<T, decltype(whole)::value>, grid, kThreads, 0, stream,
                penalties, static_cast<int>(row_blocks));
    });
  });
}

}  // namespace vk::cuda::sampling
