// Quantisation by groups of columns: what groups_instance.cu.in compiles for each kind of scale.
#ifndef VLLM_KERNELS_CUDA_QUANT_GROUPS_CUH_
#define VLLM_KERNELS_CUDA_QUANT_GROUPS_CUH_

#include "cuda/common/pdl.cuh"
#include "cuda/common/quantize.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/common/row.cuh"
#include "cuda/quant/launch.h"

namespace vk::cuda::quant {
namespace {

constexpr int kThreads = 256;

// The scale of a group whose largest |x| is `abs_max`, as it is divided by.
// kIsQuantMax: problem.largest is that of Q, and eps no tiny number.
template <GroupScale kScale, class Q, bool kIsQuantMax>
__device__ __forceinline__ float ScaleOf(const Problem& problem, float abs_max) {
  const float bounded = fmaxf(abs_max, problem.eps);
  const float scale = kIsQuantMax ? OverQuantMax<Q>(bounded) : __fdiv_rn(bounded, problem.largest);
  if constexpr (kScale == GroupScale::kFloat) return scale;
  return __uint_as_float(CeilExponent(fmaxf(scale, 1e-10f)) << 23);
}

template <GroupScale kScale>
__device__ __forceinline__ void StoreScale(const Problem& problem, int64_t row, int64_t group,
                                           float scale) {
  if constexpr (kScale == GroupScale::kPacked) {
    uint8_t* bytes = reinterpret_cast<uint8_t*>(problem.scales);
    bytes[(group / 4 * problem.scale_group_stride + row) * 4 + group % 4] =
        static_cast<uint8_t>(__float_as_uint(scale) >> 23);
  } else {
    problem.scales[problem.scale_rows.Offset(row) + group * problem.scale_group_stride] = scale;
  }
}

template <class Q>
__device__ __forceinline__ float Bounded(const Problem& problem, float q) {
  // The comparisons keep a NaN.
  return q > problem.largest ? problem.largest : q < problem.least ? problem.least : q;
}

// kVectors neighbouring vectors a thread: kLanes neighbouring lanes hold a group. kWhole: the range
// is that of Q, to which the store saturates.
template <class T, class Q, GroupScale kScale, int kLanes, int kVectors, bool kWhole>
__global__ void __launch_bounds__(kThreads) GroupKernel(const __grid_constant__ Problem problem) {
  PdlPrologue();
  constexpr int N = kVecSize<T>, kColumns = N * kVectors;
  uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  const uint32_t count = problem.count / kVectors;
  const bool active = index < count;  // all lanes of a warp take part in the reduction
  if (!active) index = count - 1;
  const FastDiv::Result at = problem.vectors(index * kVectors);
  const int64_t row = at.quotient, column = int64_t{at.remainder} * N;
  const T* from = static_cast<const T*>(problem.input) + problem.input_rows.Offset(row) + column;
  Vec<T, N> tile[kVectors];
#pragma unroll
  for (int i = 0; i < kVectors; ++i) tile[i] = LoadVec<N>(from + i * N);
  float abs_max = 0.0f;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) abs_max = AbsMax(abs_max, tile[i]);
  const float scale = ScaleOf<kScale, Q, kWhole>(problem, ReduceLanes<kLanes>(abs_max, Max()));
  if (!active) return;
  if (threadIdx.x % kLanes == 0) {
    StoreScale<kScale>(problem, row, at.remainder / (kLanes * kVectors), scale);
  }
  float x[kColumns];
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    float part[N];
    ToFloats(tile[i], part);
#pragma unroll
    for (int j = 0; j < N; ++j) x[i * N + j] = part[j];
  }
  if constexpr (kScale == GroupScale::kFloat) {
    const Divisor divisor(scale);
    divisor.Divide(x, 2.0f * kQuantMax<Q>, true);
  } else {
    // Of a power of two, the reciprocal is exact, but for 2^127's: a subnormal that is exact too.
    const float inverse = 1.0f / scale;
#pragma unroll
    for (float& one : x) one *= inverse;
  }
  if constexpr (!kWhole) {
#pragma unroll
    for (float& one : x) one = Bounded<Q>(problem, one);
  }
  Q* to = static_cast<Q*>(problem.result) + problem.result_rows.Offset(row) + column;
  StoreVec(to, FromFloats<Q>(x));
}

// Groups of any size: a warp a group, which reads it twice.
template <class T, class Q, GroupScale kScale>
__global__ void __launch_bounds__(kThreads)
    AnyGroupKernel(const __grid_constant__ Problem problem, int64_t groups) {
  PdlPrologue();
  const int64_t index = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  if (index >= groups) return;
  const int64_t row = index / problem.groups, group = index % problem.groups;
  const int lane = static_cast<int>(threadIdx.x) % 32, size = problem.group_size;
  const T* from =
      static_cast<const T*>(problem.input) + problem.input_rows.Offset(row) + group * size;
  float abs_max = 0.0f;
  for (int i = lane; i < size; i += 32) abs_max = fmaxf(abs_max, fabsf(ToFloat(from[i])));
  const float scale = ScaleOf<kScale, Q, false>(problem, ReduceLanes<32>(abs_max, Max()));
  if (lane == 0) StoreScale<kScale>(problem, row, group, scale);
  const Divisor divisor(scale);
  Q* to = static_cast<Q*>(problem.result) + problem.result_rows.Offset(row) + group * size;
  for (int i = lane; i < size; i += 32) {
    const float q = divisor.Quotient(ToFloat(from[i]), 2.0f * kQuantMax<Q>);
    to[i] = FromFloat<Q>(Bounded<Q>(problem, q));
  }
}

template <class T, class Q, GroupScale kScale>
void LaunchSize(const Problem& problem, const Launch& launch) {
  const bool whole =
      problem.largest == kQuantMax<Q> && problem.least <= -kQuantMax<Q> && problem.eps >= 1e-30f;
  constexpr int N = kVecSize<T>;
  // Two vectors a thread halve what a group costs besides; the result's stay aligned.
  const auto aligned_to = [&](const void* data, int64_t bytes) {
    return reinterpret_cast<uintptr_t>(data) % bytes == 0;
  };
  const bool pairs = problem.result_rows.dims <= 1 &&
                     problem.result_rows.stride[0] % (2 * N) == 0 &&
                     aligned_to(problem.result, 2 * N) && problem.width % (2 * N) == 0;
  const auto run = [&](auto lanes, auto vectors) {
    constexpr int kLanes = decltype(lanes)::value, kVectors = decltype(vectors)::value;
    DispatchBool(whole, [&](auto is_whole) {
      const auto kernel = GroupKernel<T, Q, kScale, kLanes, kVectors, decltype(is_whole)::value>;
      const int64_t blocks = CeilDiv(problem.count / kVectors, kThreads);
      LaunchPdl(launch.op, kernel, GridX(launch.op, blocks), kThreads, 0, launch.stream, problem);
    });
  };
  using std::integral_constant;
  const int lanes = problem.group_size % N == 0 ? problem.group_size / N : 0;
  if (launch.aligned && lanes == 8 && pairs) {
    return run(integral_constant<int, 4>(), integral_constant<int, 2>());
  }
  if (launch.aligned && lanes == 16 && pairs) {
    return run(integral_constant<int, 8>(), integral_constant<int, 2>());
  }
  if (launch.aligned && lanes == 32 && pairs) {
    return run(integral_constant<int, 16>(), integral_constant<int, 2>());
  }
  if (launch.aligned && lanes == 4) {
    return run(integral_constant<int, 4>(), integral_constant<int, 1>());
  }
  if (launch.aligned && lanes == 8) {
    return run(integral_constant<int, 8>(), integral_constant<int, 1>());
  }
  if (launch.aligned && lanes == 16) {
    return run(integral_constant<int, 16>(), integral_constant<int, 1>());
  }
  const int64_t groups = problem.rows * problem.groups;
  LaunchPdl(launch.op, AnyGroupKernel<T, Q, kScale>,
            GridX(launch.op, CeilDiv(groups, kThreads / 32)), kThreads, 0, launch.stream, problem,
            groups);
}

}  // namespace

template <GroupScale kScale>
void LaunchGroupsOf(const Problem& problem, const Launch& launch) {
  DispatchFloating(launch.dtype, [&](auto type) {
    DispatchQuantized(launch.result_dtype, [&](auto quantized) {
      LaunchSize<typename decltype(type)::type, typename decltype(quantized)::type, kScale>(problem,
                                                                                            launch);
    });
  });
}

}  // namespace vk::cuda::quant
#endif  // VLLM_KERNELS_CUDA_QUANT_GROUPS_CUH_
