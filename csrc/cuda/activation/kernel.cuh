// What the activation kernels share: the functions, and the vectors of rows that threads take.
#ifndef VLLM_KERNELS_CUDA_ACTIVATION_KERNEL_CUH_
#define VLLM_KERNELS_CUDA_ACTIVATION_KERNEL_CUH_

#include "cuda/activation/launch.h"
#include "cuda/common/math.cuh"
#include "cuda/common/pdl.cuh"
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

template <Unary kUnary, class T>
__device__ __forceinline__ float Activated(float x) {
  if constexpr (kUnary == Unary::kGeluTanh) {
    return GeluTanh<T>(x);
  } else if constexpr (kUnary == Unary::kGeluQuick) {
    return x * Sigmoid<T>(1.702f * x);
  } else if constexpr (kUnary == Unary::kSilu) {
    return Silu<T>(x);
  } else if constexpr (kUnary == Unary::kGelu) {
    return x * NormalCdf<T>(x);
  } else {
    return x < 0.0f ? 0.0f : x * x;  // so a NaN stays one
  }
}

// Vectors that a thread takes where the work fills the GPU.
constexpr int kManyGated = 2, kManyPlain = 2;

// One vector of the output: where it is, and the vectors of the input that it comes of.
template <class T, bool kAligned>
struct RowVector {
  static constexpr int N = kVecSize<T>;

  __device__ __forceinline__ void Load(const Problem& problem, uint32_t index) {
    const FastDiv::Result at = problem.vectors(index);
    row = at.quotient;
    column = at.remainder * N;
    const T* from = static_cast<const T*>(problem.input) + problem.input_rows.Offset(row);
    gate = LoadPacked<kAligned, N>(from, column, problem.width);
    if (problem.up != 0) up = LoadPacked<kAligned, N>(from + problem.up, column, problem.width);
  }

  template <class Out>
  __device__ __forceinline__ void Store(const Problem& problem, const float (&y)[N]) const {
    Out* out = static_cast<Out*>(problem.out) + problem.out_rows.Offset(row);
    StoreVector<kAligned>(out, column, problem.width, y);
  }

  uint32_t row, column;
  Vec<T, N> gate, up;
};

// body(vector) for the kVectors vectors of this thread, after the loads of all of them.
template <class T, bool kAligned, int kVectors, class Body>
__device__ __forceinline__ void ForVectors(const Problem& problem, const Body& body) {
  const uint32_t first = blockIdx.x * (kThreads * kVectors) + threadIdx.x;
  RowVector<T, kAligned> vectors[kVectors];
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    if (first + i * kThreads < problem.count) vectors[i].Load(problem, first + i * kThreads);
  }
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    if (first + i * kThreads < problem.count) body(vectors[i]);
  }
}

// y = silu(gate) * up of some vectors; the largest |y|, or `least`.
template <class T, int N, int kVectors>
__device__ __forceinline__ float SiluAndMul(const Vec<T, N> (&gates)[kVectors],
                                            const Vec<T, N> (&ups)[kVectors],
                                            float (&y)[kVectors * N], float least) {
  float abs_max = least;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    float gate[N], up[N];
    ToFloats(gates[i], gate);
    ToFloats(ups[i], up);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      y[i * N + j] = Silu<T>(gate[j]) * up[j];
      abs_max = fmaxf(abs_max, fabsf(y[i * N + j]));
    }
  }
  return abs_max;
}

// Launches one(): a vector a thread, or many(): kMany.
template <int kMany, class One, class Many>
void LaunchVectors(const Problem& problem, const Launch& launch, One one, Many many) {
  if (problem.count == 0) return;
  const bool fills = FillsDevice(launch.op, problem.count);
  const int64_t blocks = CeilDiv(problem.count, kThreads * (fills ? kMany : 1));
  LaunchPdl(launch.op, fills ? many : one, GridX(launch.op, blocks), kThreads, 0, launch.stream,
            problem);
}

}  // namespace vk::cuda::activation
#endif  // VLLM_KERNELS_CUDA_ACTIVATION_KERNEL_CUH_
