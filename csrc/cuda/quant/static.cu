#include "cuda/common/pdl.cuh"
#include "cuda/common/quantize.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/common/row.cuh"
#include "cuda/quant/launch.h"

namespace vk::cuda::quant {
namespace {

constexpr int kThreads = 256;

// Which scale an element takes.
enum class Scales { kOne, kPerVector, kPerElement };

template <class T, class Q, Scales kScales, bool kAligned, int kVectors>
__global__ void __launch_bounds__(kThreads) StaticKernel(const __grid_constant__ Problem problem) {
  PdlPrologue();
  constexpr int N = kVecSize<T>;
  // From the end to the beginning: what a measurement before read last still lies in L2.
  const uint32_t block = gridDim.x - 1 - blockIdx.x;
  const uint32_t first = block * (kThreads * kVectors) + threadIdx.x;
  Vec<T, N> tile[kVectors];
#pragma unroll
  for (int vector = 0; vector < kVectors; ++vector) {
    if (first + vector * kThreads >= problem.count) continue;
    const FastDiv::Result at = problem.vectors(first + vector * kThreads);
    const T* row = static_cast<const T*>(problem.input) + problem.input_rows.Offset(at.quotient);
    tile[vector] = LoadPacked<kAligned, N>(row, int64_t{at.remainder} * N, problem.width);
  }
  // A tensor of zeros has been measured to have scale 0, which int8's scales are never measured as:
  // there all but zeros saturate, as with the engine's own op.
  const auto inverse_of = [](float scale) {
    return scale == 0.0f && !std::is_same_v<Q, int8_t> ? 0.0f : 1.0f / scale;
  };
  const float only = kScales == Scales::kOne ? inverse_of(*problem.scales) : 0.0f;
  const float zero_point =
      problem.zero_points != nullptr ? static_cast<float>(*problem.zero_points) : 0.0f;
#pragma unroll
  for (int vector = 0; vector < kVectors; ++vector) {
    if (first + vector * kThreads >= problem.count) continue;
    const FastDiv::Result at = problem.vectors(first + vector * kThreads);
    const int64_t column = int64_t{at.remainder} * N;
    float x[N], inverse = only;
    ToFloats(tile[vector], x);
    const float* scales = problem.scales;
    if constexpr (kScales != Scales::kOne) {
      scales += at.quotient / problem.group_rows * problem.scale_row_stride;
    }
    if constexpr (kScales == Scales::kPerVector) {
      scales += column / problem.group_columns * problem.scale_column_stride;
      inverse = inverse_of(*scales);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if constexpr (kScales == Scales::kPerElement) {
        const int64_t group =
            (column + i < problem.width ? column + i : column) / problem.group_columns;
        inverse = inverse_of(scales[group * problem.scale_column_stride]);
      }
      x[i] *= inverse;
      // Rounded before the zero point is added: ties are those of x, not of the sum.
      if constexpr (std::is_same_v<Q, int8_t>) x[i] = rintf(x[i]) + zero_point;
    }
    Q* result = static_cast<Q*>(problem.result) + problem.result_rows.Offset(at.quotient);
    StoreVector<kAligned>(result, column, problem.width, x);
  }
}

template <class T, class Q, Scales kScales>
void LaunchElements(const Problem& problem, const Launch& launch) {
  if (problem.count == 0) return;
  const auto run = [&](auto kernel, int64_t vectors) {
    const unsigned blocks = GridX(launch.op, CeilDiv(problem.count, kThreads * vectors));
    LaunchPdl(launch.op, kernel, blocks, kThreads, 0, launch.stream, problem);
  };
  if (!launch.aligned) return run(StaticKernel<T, Q, kScales, false, 1>, 1);
  if (!FillsDevice(launch.op, problem.count)) return run(StaticKernel<T, Q, kScales, true, 1>, 1);
  // Four would take registers that the GPU has not for as many threads as hide the latency.
  run(StaticKernel<T, Q, kScales, true, 2>, 2);
}

// Largest |x| over 448 of all rows. The bits of floats that are not negative order as integers do,
// and the scale was set to 0 before.
template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads) MeasureKernel(const __grid_constant__ Problem problem) {
  constexpr int N = kVecSize<T>;
  __shared__ float scratch[32];
  float abs_max = 0.0f;
#pragma unroll 4
  for (uint32_t index = blockIdx.x * kThreads + threadIdx.x; index < problem.count;
       index += gridDim.x * kThreads) {
    const FastDiv::Result at = problem.vectors(index);
    float x[N];
    LoadVector<kAligned>(
        static_cast<const T*>(problem.input) + problem.input_rows.Offset(at.quotient),
        int64_t{at.remainder} * N, problem.width, x);
#pragma unroll
    for (int i = 0; i < N; ++i) abs_max = fmaxf(abs_max, fabsf(x[i]));
  }
  abs_max = ReduceBlock(abs_max, Max(), scratch);
  if (threadIdx.x == 0) {
    atomicMax(reinterpret_cast<int*>(problem.scales),
              __float_as_int(__fdiv_rn(abs_max, kQuantMax<E4M3>)));
  }
}

}  // namespace

void LaunchStatic(const Problem& problem, const Launch& launch) {
  DispatchFloating(launch.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (launch.result_dtype == VK_I8) {
      LaunchElements<T, int8_t, Scales::kOne>(problem, launch);
    } else if (problem.scale_row_stride == 0 && problem.scale_column_stride == 0) {
      LaunchElements<T, E4M3, Scales::kOne>(problem, launch);
    } else if (problem.scale_column_stride == 0 || problem.group_columns % kVecSize<T> == 0) {
      LaunchElements<T, E4M3, Scales::kPerVector>(problem, launch);
    } else {
      LaunchElements<T, E4M3, Scales::kPerElement>(problem, launch);
    }
  });
}

void LaunchTensor(const Problem& problem, const Launch& launch) {
  CheckCuda(launch.op, "setting the scale to 0",
            cudaMemsetAsync(problem.scales, 0, sizeof(float), launch.stream));
  if (problem.count == 0) return;
  // Enough blocks to fill the GPU once: each ends with an atomic operation on one address.
  const int64_t most = int64_t{8} * CurrentDevice(launch.op).multiprocessors;
  const int64_t needed = CeilDiv(problem.count, kThreads);
  const unsigned blocks = static_cast<unsigned>(needed < most ? needed : most);
  DispatchFloating(launch.dtype, [&](auto type) {
    DispatchBool(launch.aligned, [&](auto aligned) {
      MeasureKernel<typename decltype(type)::type, decltype(aligned)::value>
          <<<blocks, kThreads, 0, launch.stream>>>(problem);
      CheckLaunch(launch.op);
    });
  });
  LaunchStatic(problem, launch);
}

}  // namespace vk::cuda::quant
