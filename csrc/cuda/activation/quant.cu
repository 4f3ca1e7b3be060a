#include "cuda/activation/kernel.cuh"

namespace vk::cuda::activation {
namespace {

template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    SiluQuantKernel(const __grid_constant__ Problem problem) {
  const uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  if (index >= problem.count) return;
  Piece<T, kAligned> piece(problem, index);
  const float inverse = 1.0f / *problem.scale;
#pragma unroll
  for (int i = 0; i < piece.N; ++i) piece.gate[i] = Silu<T>(piece.gate[i]);
  RoundAll<T>(piece.gate);
#pragma unroll
  for (int i = 0; i < piece.N; ++i) piece.gate[i] *= piece.up[i];
  RoundAll<T>(piece.gate);
#pragma unroll
  for (int i = 0; i < piece.N; ++i) piece.gate[i] *= inverse;
  E4M3* out = static_cast<E4M3*>(problem.out) + problem.out_rows.Offset(piece.row);
  StorePiece<kAligned>(out, piece.column, problem.width, piece.gate);
}

// kLanes neighbouring lanes hold a group.
template <class T, class Q, int kLanes, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    SiluGroupQuantKernel(const __grid_constant__ Problem problem) {
  uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  // Lanes past the end repeat the last piece: all of a warp take part in the reduction.
  const bool active = index < problem.count;
  if (!active) index = problem.count - 1;
  Piece<T, kAligned> piece(problem, index);
  float abs_max = 0.0f;
#pragma unroll
  for (int i = 0; i < piece.N; ++i) {
    piece.gate[i] = Silu<float>(piece.gate[i]) * piece.up[i];
    abs_max = fmaxf(abs_max, fabsf(piece.gate[i]));
  }
  float scale = __fdiv_rn(ReduceLanes<kLanes>(abs_max, Max()), kQuantMax<Q>);
  if (problem.scale_ub != nullptr) scale = fminf(scale, *problem.scale_ub);
  scale = fmaxf(scale, MinScale<Q>());
  if (!active) return;
  if (threadIdx.x % kLanes == 0) {
    problem.scales[piece.row * problem.scale_row_stride +
                   piece.column / problem.group_size * problem.scale_group_stride] = scale;
  }
  const Divisor divisor(scale);
#pragma unroll
  for (int i = 0; i < piece.N; ++i) {
    piece.gate[i] = divisor.Quotient(piece.gate[i], 2.0f * kQuantMax<Q>);
  }
  Q* out = static_cast<Q*>(problem.out) + problem.out_rows.Offset(piece.row);
  StorePiece<kAligned>(out, piece.column, problem.width, piece.gate);
}

}  // namespace

void LaunchSiluQuant(const Problem& problem, const Launch& launch) {
  DispatchFloating(launch.dtype, [&](auto type) {
    DispatchBool(launch.aligned, [&](auto aligned) {
      using T = typename decltype(type)::type;
      LaunchPieces(SiluQuantKernel<T, decltype(aligned)::value>, problem, launch);
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
          LaunchPieces(SiluGroupQuantKernel<T, Q, kLanes, kAligned>, problem, launch);
        } else {
          LaunchPieces(SiluGroupQuantKernel<T, Q, 2 * kLanes, kAligned>, problem, launch);
        }
      });
    });
  });
}

}  // namespace vk::cuda::activation
