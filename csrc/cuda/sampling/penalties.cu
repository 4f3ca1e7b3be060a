#include "cuda/common/vec.cuh"
#include "cuda/sampling/launch.h"

namespace vk::cuda::sampling {
namespace {

constexpr int kThreads = 256;
constexpr int kColumns = 16;  // of a thread: 16 bytes of each mask

template <class T>
__device__ __forceinline__ void Apply(T* logit, float penalty) {
  const float x = ToFloat(*logit);
  *logit = FromFloat<T>(x > 0.0f ? x / penalty : x * penalty);
}

// Masks are read whole, logits only where a mask is set: few tokens of the vocabulary are.
template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    PenaltiesKernel(const __grid_constant__ Penalties p, const int pieces) {
  const int64_t row = blockIdx.x / pieces;
  const int64_t thread = static_cast<int64_t>(blockIdx.x % pieces) * kThreads + threadIdx.x;
  const float penalty = ToFloat(static_cast<const T*>(p.penalties)[row]);
  T* logits = static_cast<T*>(p.logits) + row * p.logits_stride;
  const uint8_t* prompt = p.prompt + row * p.prompt_stride;
  const uint8_t* output = p.output + row * p.output_stride;
  const int64_t first = thread * kColumns;
  if (kAligned && first + kColumns <= p.width) {
    const uint4 a = *reinterpret_cast<const uint4*>(prompt + first);
    const uint4 b = *reinterpret_cast<const uint4*>(output + first);
    const uint32_t words[4] = {a.x | b.x, a.y | b.y, a.z | b.z, a.w | b.w};
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      if (words[word] == 0) continue;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (words[word] >> (8 * i) & 0xFFu) Apply(logits + first + word * 4 + i, penalty);
      }
    }
  } else if constexpr (kAligned) {
    for (int64_t i = first; i < p.width; ++i) {
      if (prompt[i] | output[i]) Apply(logits + i, penalty);
    }
  } else {
    // Neighbouring threads take neighbouring columns.
    const int64_t start = static_cast<int64_t>(blockIdx.x % pieces) * kThreads * kColumns;
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const int64_t i = start + j * kThreads + threadIdx.x;
      if (i < p.width && (prompt[i] | output[i])) Apply(logits + i, penalty);
    }
  }
}

}  // namespace

void LaunchPenalties(const char* op, int32_t dtype, bool aligned, const Penalties& penalties,
                     cudaStream_t stream) {
  if (penalties.rows == 0 || penalties.width == 0) return;
  const int64_t pieces = CeilDiv(penalties.width, kThreads * kColumns);
  const unsigned grid = GridX(op, penalties.rows * pieces);
  DispatchFloating(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    DispatchBool(aligned, [&](auto whole) {
      PenaltiesKernel<T, decltype(whole)::value>
          <<<grid, kThreads, 0, stream>>>(penalties, static_cast<int>(pieces));
    });
  });
  CheckLaunch(op);
}

}  // namespace vk::cuda::sampling
