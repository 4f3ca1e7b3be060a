#include "cuda/activation/kernel.cuh"

namespace vk::cuda::activation {
namespace {

template <class T, bool kAligned, int kPieces>
__global__ void __launch_bounds__(kThreads)
    SiluQuantKernel(const __grid_constant__ Problem problem) {
  StartEarly();
  const float scale = *problem.scale;
  ForPieces<T, kAligned, kPieces>(problem, [&](const auto& piece) {
    constexpr int N = kVecSize<T>;
    const float inverse = 1.0f / scale;
    float gate[N], up[N];
    ToFloats(piece.gate, gate);
    ToFloats(piece.up, up);
#pragma unroll
    for (int i = 0; i < N; ++i) gate[i] = Silu<T>(gate[i]);
    RoundAll<T>(gate);
#pragma unroll
    for (int i = 0; i < N; ++i) gate[i] *= up[i];
    RoundAll<T>(gate);
#pragma unroll
    for (int i = 0; i < N; ++i) gate[i] *= inverse;
    piece.template Store<E4M3>(problem, gate);
  });
}

// kLanes neighbouring lanes hold a group.
template <class T, class Q, int kLanes, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    SiluGroupQuantKernel(const __grid_constant__ Problem problem) {
  StartEarly();
  uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  // Lanes past the end repeat the last piece: all of a warp take part in the reduction.
  const bool active = index < problem.count;
  if (!active) index = problem.count - 1;
  Piece<T, kAligned> piece;
  piece.Load(problem, index);
  constexpr int N = kVecSize<T>;
  float y[N], up[N], abs_max = 0.0f;
  ToFloats(piece.gate, y);
  ToFloats(piece.up, up);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    y[i] = Silu<float>(y[i]) * up[i];
    abs_max = fmaxf(abs_max, fabsf(y[i]));
  }
  float scale = OverQuantMax<Q>(ReduceLanes<kLanes>(abs_max, Max()));
  if (problem.scale_ub != nullptr) scale = fminf(scale, *problem.scale_ub);
  scale = fmaxf(scale, MinScale<Q>());
  if (!active) return;
  if (threadIdx.x % kLanes == 0) {
    problem.scales[piece.row * problem.scale_row_stride +
                   piece.column / problem.group_size * problem.scale_group_stride] = scale;
  }
  const Divisor divisor(scale);
  divisor.Divide(y, 2.0f * kQuantMax<Q>, problem.scale_ub == nullptr);
  piece.template Store<Q>(problem, y);
}

}  // namespace

void LaunchSiluQuant(const Problem& problem, const Launch& launch) {
  DispatchFloating(launch.dtype, [&](auto type) {
    DispatchBool(launch.aligned, [&](auto aligned) {
      using T = typename decltype(type)::type;
      constexpr bool kAligned = decltype(aligned)::value;
      LaunchPieces<kManyGated>(problem, launch, SiluQuantKernel<T, kAligned, 1>,
                               SiluQuantKernel<T, kAligned, kManyGated>);
    });
  });
}

void LaunchSiluGroupQuant(const Problem& problem, const Launch& launch) {
  DispatchFloating(launch.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    constexpr int kLanes = 64 / kVecSize<T>;
    DispatchQuantized(launch.out_dtype, [&](auto quantized) {
      using Q = typename decltype(quantized)::type;
      DispatchBool(launch.aligned, [&](auto aligned) {
        constexpr bool kAligned = decltype(aligned)::value;
        if (problem.group_size == 64) {
          const auto kernel = SiluGroupQuantKernel<T, Q, kLanes, kAligned>;
          LaunchPieces<1>(problem, launch, kernel, kernel);
        } else {
          const auto kernel = SiluGroupQuantKernel<T, Q, 2 * kLanes, kAligned>;
          LaunchPieces<1>(problem, launch, kernel, kernel);
        }
      });
    });
  });
}

}  // namespace vk::cuda::activation
