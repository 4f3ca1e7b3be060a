// Activations of the rows that experts use, which only the device knows: [experts, rows, columns],
// and for each expert how many rows from the first one on. Others stay as they are.
#include <algorithm>

#include "cuda/activation/gate.cuh"

namespace vk::cuda::activation {
namespace {

constexpr int64_t kBlocksPerSm = 8;

// body(index) for this thread's vectors of the output, in rows of expert blockIdx.y.
template <class Body>
__device__ __forceinline__ void ForUsedVectors(const Problem& problem, const Body& body) {
  const int64_t count = problem.counts[blockIdx.y];
  const int64_t rows = count < 0 ? 0 : min(count, problem.expert_rows);
  const uint32_t vectors = problem.vectors.divisor();
  const uint32_t first = static_cast<uint32_t>(blockIdx.y * problem.expert_rows) * vectors;
  const uint32_t used = static_cast<uint32_t>(rows) * vectors;
  for (uint32_t at = blockIdx.x * kThreads + threadIdx.x; at < used; at += gridDim.x * kThreads) {
    body(first + at);
  }
}

template <Gate kGate, class T, bool kAligned>
__global__ void __launch_bounds__(kThreads) ExpertsKernel(const __grid_constant__ Problem problem) {
  PdlPrologue();
  constexpr int N = kVecSize<T>;
  ForUsedVectors(problem, [&](uint32_t index) {
    RowVector<T, kAligned> vector;
    float y[N];
    if constexpr (kGate == Gate::kSwigluOai) {
      const FastDiv::Result at = problem.vectors(index);
      vector.row = at.quotient;
      vector.column = at.remainder * N;
      SwigluOaiAndMultiply<T, kAligned>(
          problem, static_cast<const T*>(problem.input) + problem.input_rows.Offset(vector.row),
          vector.column, y);
    } else {
      vector.Load(problem, index);
      float up[N];
      ToFloats(vector.gate, y);
      ToFloats(vector.up, up);
      ActivateAndMultiply<kGate, T>(problem, y, up);
    }
    vector.template Store<T>(problem, y);
  });
}

template <Unary kUnary, class T, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    PlainExpertsKernel(const __grid_constant__ Problem problem) {
  PdlPrologue();
  constexpr int N = kVecSize<T>;
  ForUsedVectors(problem, [&](uint32_t index) {
    RowVector<T, kAligned> vector;
    vector.Load(problem, index);
    float x[N];
    ToFloats(vector.gate, x);
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = Activated<kUnary, T>(x[i]);
    vector.template Store<T>(problem, x);
  });
}

template <class Choose>
void LaunchExperts(const Problem& problem, const Launch& launch, const Choose& choose) {
  if (problem.count == 0) return;
  const int64_t experts = problem.rows / problem.expert_rows;
  const int64_t most = kBlocksPerSm * CurrentDevice(launch.op).multiprocessors;
  const int64_t blocks =
      std::min(CeilDiv(problem.count / experts, kThreads), CeilDiv(most, experts));
  const dim3 grid(GridX(launch.op, blocks), static_cast<unsigned>(experts));
  DispatchFloating(launch.dtype, [&](auto type) {
    DispatchBool(launch.aligned, [&](auto aligned) {
      LaunchPdl(launch.op, choose(type, aligned), grid, kThreads, 0, launch.stream, problem);
    });
  });
}

template <Gate kGate>
void LaunchGate(const Problem& problem, const Launch& launch) {
  if constexpr (kGate == Gate::kSiluOfUp || kGate == Gate::kFatrelu) {
    Fail(VK_INVALID_ARGUMENT, "%s: no masked kernel of that activation", launch.op);
  } else {
    LaunchExperts(problem, launch, [](auto type, auto aligned) {
      return ExpertsKernel<kGate, typename decltype(type)::type, decltype(aligned)::value>;
    });
  }
}

template <Unary kUnary>
void LaunchKind(const Problem& problem, const Launch& launch) {
  if constexpr (kUnary == Unary::kGeluQuick) {
    Fail(VK_INVALID_ARGUMENT, "%s: no masked kernel of that activation", launch.op);
  } else {
    LaunchExperts(problem, launch, [](auto type, auto aligned) {
      return PlainExpertsKernel<kUnary, typename decltype(type)::type, decltype(aligned)::value>;
    });
  }
}

}  // namespace

void LaunchMaskedGate(Gate gate, const Problem& problem, const Launch& launch) {
  DispatchGate(gate, [&](auto kind) { LaunchGate<decltype(kind)::value>(problem, launch); });
}

void LaunchMaskedUnary(Unary unary, const Problem& problem, const Launch& launch) {
  DispatchUnary(unary, [&](auto kind) { LaunchKind<decltype(kind)::value>(problem, launch); });
}

}  // namespace vk::cuda::activation
