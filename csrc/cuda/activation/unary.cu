#include "cuda/activation/gate.cuh"

namespace vk::cuda::activation {
namespace {

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

// float32 out of any type: alpha * tanh(x * limit).
template <class T, bool kAligned, int kVectors>
__global__ void __launch_bounds__(kThreads) SoftCapKernel(const __grid_constant__ Problem problem) {
  PdlPrologue();
  ForVectors<T, kAligned, kVectors>(problem, [&](const auto& vector) {
    constexpr int N = kVecSize<T>;
    float x[N];
    ToFloats(vector.gate, x);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      x[i] = problem.alpha * Quotient<float>(TanhFraction<float>(x[i] * problem.limit));
    }
    if constexpr (N == 8) {  // twice the 16 bytes that are stored at once
      float* out = static_cast<float*>(problem.out) + problem.out_rows.Offset(vector.row);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float part[4] = {x[4 * half], x[4 * half + 1], x[4 * half + 2], x[4 * half + 3]};
        StoreVector<kAligned>(out, vector.column + 4 * half, problem.width, part);
      }
    } else {
      vector.template Store<float>(problem, x);
    }
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
  DispatchUnary(unary, [&](auto kind) { LaunchKind<decltype(kind)::value>(problem, launch); });
}

void LaunchSoftCap(const Problem& problem, const Launch& launch) {
  DispatchFloating(launch.dtype, [&](auto type) {
    DispatchBool(launch.aligned, [&](auto aligned) {
      using T = typename decltype(type)::type;
      constexpr bool kAligned = decltype(aligned)::value;
      LaunchVectors<kManyPlain>(problem, launch, SoftCapKernel<T, kAligned, 1>,
                                SoftCapKernel<T, kAligned, kManyPlain>);
    });
  });
}

}  // namespace vk::cuda::activation
