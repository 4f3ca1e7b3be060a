#include "cuda/activation/gate.cuh"

namespace vk::cuda::activation {
namespace {

template <Gate kGate, class T, bool kAligned, int kVectors>
__global__ void __launch_bounds__(kThreads) GatedKernel(const __grid_constant__ Problem problem) {
  PdlPrologue();
  ForVectors<T, kAligned, kVectors>(problem, [&](const auto& vector) {
    constexpr int N = kVecSize<T>;
    float gate[N], up[N];
    ToFloats(vector.gate, gate);
    ToFloats(vector.up, up);
    ActivateAndMultiply<kGate, T>(problem, gate, up);
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
  float y[N];
  SwigluOaiAndMultiply<T, kAligned>(
      problem, static_cast<const T*>(problem.input) + problem.input_rows.Offset(at.quotient),
      column, y);
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
    case Gate::kSitu:
      return LaunchGate<Gate::kSitu>(problem, launch);
    case Gate::kSwigluStep:
      return LaunchGate<Gate::kSwigluStep>(problem, launch);
  }
}

}  // namespace vk::cuda::activation
