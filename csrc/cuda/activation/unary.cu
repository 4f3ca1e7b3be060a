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

template <Unary kUnary, class T, bool kAligned, int kVectors>
__global__ void __launch_bounds__(kThreads) UnaryKernel(const __grid_constant__ Problem problem) {
  PdlPrologue();
  ForVectors<T, kAligned, kVectors>(problem, [&](const auto& vector) {
    constexpr int N = kVecSize<T>;
    float x[N];
    ToFloats(vector.gate, x);
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = Activated<kUnary, T>(x[i]);
    vector.template Store<T>(problem, x);
  });
}

template <Unary kUnary>
void LaunchKind(const Problem& problem, const Launch& launch) {
  DispatchFloating(launch.dtype, [&](auto type) {
    DispatchBool(launch.aligned, [&](auto aligned) {
      using T = typename decltype(type)::type;
      constexpr bool kAligned = decltype(aligned)::value;
      LaunchVectors<kManyPlain>(problem, launch, UnaryKernel<kUnary, T, kAligned, 1>,
                                UnaryKernel<kUnary, T, kAligned, kManyPlain>);
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
