#include "cuda/activation/kernel.cuh"

namespace vk::cuda::activation {
namespace {

template <class T, bool kAligned, int kVectors>
__global__ void __launch_bounds__(kThreads)
    SiluQuantKernel(const __grid_constant__ Problem problem) {
  PdlPrologue();
  const float scale = *problem.scale;
  ForVectors<T, kAligned, kVectors>(problem, [&](const auto& vector) {
    constexpr int N = kVecSize<T>;
    const float inverse = 1.0f / scale;
    float gate[N], up[N];
    ToFloats(vector.gate, gate);
    ToFloats(vector.up, up);
#pragma unroll
    for (int i = 0; i < N; ++i) gate[i] = Silu<T>(gate[i]);
    RoundAll<T>(gate);
#pragma unroll
    for (int i = 0; i < N; ++i) gate[i] *= up[i];
    RoundAll<T>(gate);
#pragma unroll
    for (int i = 0; i < N; ++i) gate[i] *= inverse;
    vector.template Store<E4M3>(problem, gate);
  });
}

// Two neighbouring vectors a thread, which halves what a group costs besides; kLanes neighbouring
// lanes hold a group.
constexpr int kGroupVectors = 2;

template <class T, class Q, int kLanes, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    SiluGroupQuantKernel(const __grid_constant__ Problem problem) {
  PdlPrologue();
  constexpr int N = kVecSize<T>, kColumns = kGroupVectors * N;
  uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  // Lanes past the end repeat the last vector: all of a warp take part in the reduction.
  const uint32_t count = problem.count / kGroupVectors;
  const bool active = index < count;
  if (!active) index = count - 1;
  const FastDiv::Result at = problem.vectors(index * kGroupVectors);
  const int64_t column = int64_t{at.remainder} * N;
  const T* from = static_cast<const T*>(problem.input) + problem.input_rows.Offset(at.quotient);
  Vec<T, N> gates[kGroupVectors], ups[kGroupVectors];
#pragma unroll
  for (int i = 0; i < kGroupVectors; ++i) {
    gates[i] = LoadPacked<kAligned, N>(from, column + i * N, problem.width);
    ups[i] = LoadPacked<kAligned, N>(from + problem.up, column + i * N, problem.width);
  }
  float y[kColumns];
  const float abs_max = SiluAndMul(gates, ups, y, 0.0f);
  float scale = OverQuantMax<Q>(ReduceLanes<kLanes>(abs_max, Max()));
  if (problem.scale_ub != nullptr) scale = fminf(scale, *problem.scale_ub);
  scale = fmaxf(scale, MinScale<Q>());
  if (!active) return;
  if (threadIdx.x % kLanes == 0) {
    problem.scales[at.quotient * problem.scale_row_stride +
                   at.remainder / (kLanes * kGroupVectors) * problem.scale_group_stride] = scale;
  }
  const Divisor divisor(scale);
  divisor.Divide(y, 2.0f * kQuantMax<Q>, problem.scale_ub == nullptr);
  const Vec<Q, kColumns> quantised = FromFloats<Q>(y);
  Q* out = static_cast<Q*>(problem.out) + problem.out_rows.Offset(at.quotient) + column;
  if (reinterpret_cast<uintptr_t>(out) % sizeof(quantised) == 0) {
    StoreVec(out, quantised);
  } else {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) out[i] = quantised[i];
  }
}

}  // namespace

void LaunchSiluQuant(const Problem& problem, const Launch& launch) {
  DispatchFloating(launch.dtype, [&](auto type) {
    DispatchBool(launch.aligned, [&](auto aligned) {
      using T = typename decltype(type)::type;
      constexpr bool kAligned = decltype(aligned)::value;
      LaunchVectors<kManyGated>(problem, launch, SiluQuantKernel<T, kAligned, 1>,
                                SiluQuantKernel<T, kAligned, kManyGated>);
    });
  });
}

void LaunchSiluGroupQuant(const Problem& problem, const Launch& launch) {
  if (problem.count == 0) return;
  DispatchFloating(launch.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    // Rows are whole groups, so they hold an even number of vectors.
    constexpr int kLanes = 64 / (kGroupVectors * kVecSize<T>);
    DispatchQuantized(launch.out_dtype, [&](auto quantized) {
      using Q = typename decltype(quantized)::type;
      DispatchBool(launch.aligned, [&](auto aligned) {
        constexpr bool kAligned = decltype(aligned)::value;
        const auto kernel = problem.group_size == 64
                                ? SiluGroupQuantKernel<T, Q, kLanes, kAligned>
                                : SiluGroupQuantKernel<T, Q, 2 * kLanes, kAligned>;
        const int64_t blocks = CeilDiv(problem.count / kGroupVectors, kThreads);
        LaunchPdl(launch.op, kernel, GridX(launch.op, blocks), kThreads, 0, launch.stream, problem);
      });
    });
  });
}

}  // namespace vk::cuda::activation
