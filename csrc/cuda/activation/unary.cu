#include "cuda/activation/kernel.cuh"

namespace vk::cuda::activation {
namespace {

template <Unary kUnary, class T>
__device__ __forceinline__ float Activated(float x) {
  if constexpr (kUnary == Unary::kGeluTanh) {
    return GeluTanh<T>(x);
  } else if constexpr (kUnary == Unary::kGeluQuick) {
    return x * Sigmoid<T>(1.702f * x);
  } else {
    return x < 0.0f ? 0.0f : x * x;  // so a NaN stays one
  }
}

template <Unary kUnary, class T, bool kAligned>
__global__ void __launch_bounds__(kThreads) UnaryKernel(const __grid_constant__ Problem problem) {
  constexpr int N = kVecSize<T>;
  const uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  if (index >= problem.count) return;
  const FastDiv::Result at = problem.pieces(index);
  const int64_t column = int64_t{at.remainder} * N;
  float x[N];
  LoadPiece<kAligned>(static_cast<const T*>(problem.input) + problem.input_rows.Offset(at.quotient),
                      column, problem.width, x);
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = Activated<kUnary, T>(x[i]);
  T* out = static_cast<T*>(problem.out) + problem.out_rows.Offset(at.quotient);
  StorePiece<kAligned>(out, column, problem.width, x);
}

template <Unary kUnary>
void LaunchKind(const Problem& problem, const Launch& launch) {
  DispatchFloating(launch.dtype, [&](auto type) {
    DispatchBool(launch.aligned, [&](auto aligned) {
      using T = typename decltype(type)::type;
      LaunchPieces(UnaryKernel<kUnary, T, decltype(aligned)::value>, problem, launch);
    });
  });
}

}  // namespace

void LaunchUnary(Unary unary, const Problem& problem, const Launch& launch) {
  switch (unary) {
    case Unary::kGeluTanh:
      return LaunchKind<Unary::kGeluTanh>(problem, launch);
    case Unary::kGeluQuick:
      return LaunchKind<Unary::kGeluQuick>(problem, launch);
    case Unary::kReluSquared:
      return LaunchKind<Unary::kReluSquared>(problem, launch);
  }
}

}  // namespace vk::cuda::activation
