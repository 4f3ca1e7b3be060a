#include "cuda/activation/kernel.cuh"

namespace vk::cuda::activation {
namespace {

// Of each pair what is activated, before it is rounded, and what it is multiplied by then.
template <Gate kGate, class T>
__device__ __forceinline__ void Activate(const Problem& problem, float& gate, float& up) {
  if constexpr (kGate == Gate::kSilu) {
    gate = Silu<T>(gate);
  } else if constexpr (kGate == Gate::kSiluOfUp) {
    const float activated = Silu<T>(up);
    up = gate;
    gate = activated;
  } else if constexpr (kGate == Gate::kGelu) {
    gate = gate * NormalCdf<T>(gate);
  } else if constexpr (kGate == Gate::kGeluTanh) {
    gate = GeluTanh<T>(gate);
  } else if constexpr (kGate == Gate::kFatrelu) {
    gate = gate <= problem.limit ? 0.0f : gate;  // so a NaN stays one
  } else {
    // The comparisons keep a NaN, which fminf and fmaxf drop.
    const float limit = problem.limit;
    const float g = gate > limit ? RoundTo<T>(limit) : gate;
    gate = g * Sigmoid<T>(problem.alpha * g);
    up = up < -limit ? RoundTo<T>(-limit) : up;  // of a limit below 0, what comes last holds
    up = up > limit ? RoundTo<T>(limit) : up;
    up += problem.beta;
  }
}

template <Gate kGate, class T, bool kAligned, int kVectors>
__global__ void __launch_bounds__(kThreads) GatedKernel(const __grid_constant__ Problem problem) {
  PdlPrologue();
  ForVectors<T, kAligned, kVectors>(problem, [&](const auto& vector) {
    constexpr int N = kVecSize<T>;
    float gate[N], up[N];
    ToFloats(vector.gate, gate);
    ToFloats(vector.up, up);
#pragma unroll
    for (int i = 0; i < N; ++i) Activate<kGate, T>(problem, gate[i], up[i]);
    RoundAll<T>(gate);
#pragma unroll
    for (int i = 0; i < N; ++i) gate[i] *= up[i];
    vector.template Store<T>(problem, gate);
  });
}

// Gates and the other half alternate, so a vector of the output comes of two of the input.
template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    InterleavedKernel(const __grid_constant__ Problem problem) {
  PdlPrologue();
  constexpr int N = kVecSize<T>;
  const uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  if (index >= problem.count) return;
  const FastDiv::Result at = problem.vectors(index);
  const int64_t column = int64_t{at.remainder} * N;
  const T* from = static_cast<const T*>(problem.input) + problem.input_rows.Offset(at.quotient);
  float pairs[2][N], y[N];
  LoadVector<kAligned>(from, 2 * column, 2 * problem.width, pairs[0]);
  if (kAligned || 2 * column + N < 2 * problem.width) {
    LoadVector<kAligned>(from, 2 * column + N, 2 * problem.width, pairs[1]);
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float gate = pairs[2 * i / N][2 * i % N], up = pairs[2 * i / N][2 * i % N + 1];
    const float limit = problem.limit;
    const float g = gate > limit ? limit : gate;
    const float least = up < -limit ? -limit : up, u = least > limit ? limit : least;
    y[i] = (u + 1.0f) * (g * Sigmoid<T>(problem.alpha * g));
  }
  T* out = static_cast<T*>(problem.out) + problem.out_rows.Offset(at.quotient);
  StoreVector<kAligned>(out, column, problem.width, y);
}

template <Gate kGate>
void LaunchGate(const Problem& problem, const Launch& launch) {
  DispatchFloating(launch.dtype, [&](auto type) {
    DispatchBool(launch.aligned, [&](auto aligned) {
      using T = typename decltype(type)::type;
      constexpr bool kAligned = decltype(aligned)::value;
      if constexpr (kGate == Gate::kSwigluOai) {
        const auto kernel = InterleavedKernel<T, kAligned>;
        LaunchVectors<1>(problem, launch, kernel, kernel);
      } else {
        LaunchVectors<kManyGated>(problem, launch, GatedKernel<kGate, T, kAligned, 1>,
                                  GatedKernel<kGate, T, kAligned, kManyGated>);
      }
    });
  });
}

}  // namespace

void LaunchGated(Gate gate, const Problem& problem, const Launch& launch) {
  switch (gate) {
    case Gate::kSilu:
      return LaunchGate<Gate::kSilu>(problem, launch);
    case Gate::kSiluOfUp:
      return LaunchGate<Gate::kSiluOfUp>(problem, launch);
    case Gate::kGelu:
      return LaunchGate<Gate::kGelu>(problem, launch);
    case Gate::kGeluTanh:
      return LaunchGate<Gate::kGeluTanh>(problem, launch);
    case Gate::kFatrelu:
      return LaunchGate<Gate::kFatrelu>(problem, launch);
    case Gate::kSiluClamp:
      return LaunchGate<Gate::kSiluClamp>(problem, launch);
    case Gate::kSwigluOai:
      return LaunchGate<Gate::kSwigluOai>(problem, launch);
  }
}

}  // namespace vk::cuda::activation
