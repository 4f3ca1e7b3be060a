// What the activation kernels share: the functions, and the pieces of rows that threads take.
#ifndef VLLM_KERNELS_CUDA_ACTIVATION_KERNEL_CUH_
#define VLLM_KERNELS_CUDA_ACTIVATION_KERNEL_CUH_

#include "cuda/activation/launch.h"
#include "cuda/common/math.cuh"
#include "cuda/common/quantize.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/common/row.cuh"

namespace vk::cuda::activation {

constexpr int kThreads = 256;

template <class T>
__device__ __forceinline__ float Silu(float x) {
  return x * Sigmoid<T>(x);
}

// (1 + tanh u) / 2 is the sigmoid of 2 u.
template <class T>
__device__ __forceinline__ float GeluTanh(float x) {
  constexpr float kSlope = 1.59576912f;  // 2 sqrt(2 / pi)
  return x * Sigmoid<T>(x * fmaf(x * x, kSlope * 0.044715f, kSlope));
}

// The halves of one vector of the output: N gates, and N of the other half.
template <class T, bool kAligned>
struct Piece {
  static constexpr int N = kVecSize<T>;

  __device__ __forceinline__ Piece(const Problem& problem, uint32_t index) {
    const FastDiv::Result at = problem.pieces(index);
    row = at.quotient;
    column = at.remainder * N;
    const T* from = static_cast<const T*>(problem.input) + problem.input_rows.Offset(row);
    LoadPiece<kAligned>(from, column, problem.width, gate);
    LoadPiece<kAligned>(from + problem.up, column, problem.width, up);
  }

  uint32_t row, column;
  float gate[N], up[N];
};

// Kernels take one piece a thread.
template <class Kernel>
void LaunchPieces(Kernel kernel, const Problem& problem, const Launch& launch) {
  if (problem.count == 0) return;
  const int64_t blocks = CeilDiv(problem.count, kThreads);
  kernel<<<GridX(launch.op, blocks), kThreads, 0, launch.stream>>>(problem);
  CheckLaunch(launch.op);
}

}  // namespace vk::cuda::activation
#endif  // VLLM_KERNELS_CUDA_ACTIVATION_KERNEL_CUH_
