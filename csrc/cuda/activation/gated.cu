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
  DispatchGate(gate, [&](auto kind) { LaunchGate<decltype(kind)::value>(problem, launch); });
}

}  // namespace vk::cuda::activation
