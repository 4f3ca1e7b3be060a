#include "cuda/common/quantize.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/common/row.cuh"
#include "cuda/quant/launch.h"

namespace vk::cuda::quant {
namespace {

constexpr int kThreads = 256;

// The biased exponent of the least power of two that is not below `scale` (not below 1e-10).
__device__ __forceinline__ uint32_t CeilExponent(float scale) {
  const uint32_t bits = __float_as_uint(fmaxf(scale, 1e-10f));
  return (bits >> 23) + ((bits & 0x7FFFFF) != 0 ? 1 : 0);
}

// The scale of a group whose largest |x| is `abs_max`, as it is divided by.
template <GroupScale kScale>
__device__ __forceinline__ float ScaleOf(const Problem& problem, float abs_max) {
  const float scale = __fdiv_rn(fmaxf(abs_max, problem.eps), problem.largest);
  if constexpr (kScale == GroupScale::kFloat) return scale;
  return __uint_as_float(CeilExponent(scale) << 23);
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
__device__ __forceinline__ float Quantised(const Problem& problem, const Divisor& divisor,
                                           float x) {
  const float q = divisor.Quotient(x, 2.0f * kQuantMax<Q>);
  // The comparisons keep a NaN.
  return q > problem.largest ? problem.largest : q < problem.least ? problem.least : q;
}

// A piece a thread: kLanes neighbouring lanes hold a group.
template <class T, class Q, GroupScale kScale, int kLanes, bool kAligned>
__global__ void __launch_bounds__(kThreads) GroupKernel(const __grid_constant__ Problem problem) {
  constexpr int N = kVecSize<T>;
  uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  const bool active = index < problem.count;  // all lanes of a warp take part in the reduction
  if (!active) index = problem.count - 1;
  const FastDiv::Result at = problem.pieces(index);
  const int64_t row = at.quotient, column = int64_t{at.remainder} * N;
  float x[N];
  LoadPiece<kAligned>(static_cast<const T*>(problem.input) + problem.input_rows.Offset(row), column,
                      problem.width, x);
  float abs_max = 0.0f;
#pragma unroll
  for (int i = 0; i < N; ++i) abs_max = fmaxf(abs_max, fabsf(x[i]));
  const float scale = ScaleOf<kScale>(problem, ReduceLanes<kLanes>(abs_max, Max()));
  if (!active) return;
  if (threadIdx.x % kLanes == 0) StoreScale<kScale>(problem, row, column / (kLanes * N), scale);
  const Divisor divisor(scale);
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = Quantised<Q>(problem, divisor, x[i]);
  Q* result = static_cast<Q*>(problem.result) + problem.result_rows.Offset(row);
  StorePiece<kAligned>(result, column, problem.width, x);
}

// Groups of any size: a warp a group, which reads it twice.
template <class T, class Q, GroupScale kScale>
__global__ void __launch_bounds__(kThreads)
    AnyGroupKernel(const __grid_constant__ Problem problem, int64_t groups) {
  const int64_t index = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  if (index >= groups) return;
  const int64_t row = index / problem.groups, group = index % problem.groups;
  const int lane = static_cast<int>(threadIdx.x) % 32, size = problem.group_size;
  const T* from =
      static_cast<const T*>(problem.input) + problem.input_rows.Offset(row) + group * size;
  float abs_max = 0.0f;
  for (int i = lane; i < size; i += 32) abs_max = fmaxf(abs_max, fabsf(ToFloat(from[i])));
  const float scale = ScaleOf<kScale>(problem, ReduceLanes<32>(abs_max, Max()));
  if (lane == 0) StoreScale<kScale>(problem, row, group, scale);
  const Divisor divisor(scale);
  Q* to = static_cast<Q*>(problem.result) + problem.result_rows.Offset(row) + group * size;
  for (int i = lane; i < size; i += 32) {
    to[i] = FromFloat<Q>(Quantised<Q>(problem, divisor, ToFloat(from[i])));
  }
}

// What packed scales and their rows are padded with.
__global__ void __launch_bounds__(kThreads)
    PaddingKernel(const __grid_constant__ Problem problem, int64_t packs) {
  uint8_t* scales = reinterpret_cast<uint8_t*>(problem.scales);
  uint8_t* result = static_cast<uint8_t*>(problem.result);
  const int64_t first = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t step = int64_t{gridDim.x} * kThreads;
  const int64_t last_pack = (packs - 1) * problem.scale_group_stride;
  for (int64_t i = first; i < problem.rows; i += step) {
    for (int64_t group = problem.groups; group < packs * 4; ++group) {
      scales[(last_pack + i) * 4 + group % 4] = 0;
    }
  }
  // The last column of packs ends with the last row: its padding is not memory of the tensor.
  const int64_t spare = problem.padded_rows - problem.rows;
  for (int64_t i = first; i < spare * (packs - 1); i += step) {
    const int64_t at = i / spare * problem.scale_group_stride + problem.rows + i % spare;
    reinterpret_cast<int32_t*>(scales)[at] = 0;
  }
  for (int64_t i = first; i < problem.result_padding * problem.width; i += step) {
    const int64_t row = problem.rows + i / problem.width;
    result[problem.result_rows.Offset(row) + i % problem.width] = 0;
  }
}

template <class T, class Q, GroupScale kScale>
void LaunchSize(const Problem& problem, const Launch& launch) {
  const unsigned blocks = GridX(launch.op, CeilDiv(problem.count, kThreads));
  const auto run = [&](auto kernel) {
    kernel<<<blocks, kThreads, 0, launch.stream>>>(problem);
    CheckLaunch(launch.op);
  };
  const int lanes = problem.group_size % kVecSize<T> == 0 ? problem.group_size / kVecSize<T> : 0;
  if (launch.aligned && lanes == 4) return run(GroupKernel<T, Q, kScale, 4, true>);
  if (launch.aligned && lanes == 8) return run(GroupKernel<T, Q, kScale, 8, true>);
  if (launch.aligned && lanes == 16) return run(GroupKernel<T, Q, kScale, 16, true>);
  if (launch.aligned && lanes == 32) return run(GroupKernel<T, Q, kScale, 32, true>);
  const int64_t groups = problem.rows * problem.groups;
  AnyGroupKernel<T, Q, kScale>
      <<<GridX(launch.op, CeilDiv(groups, kThreads / 32)), kThreads, 0, launch.stream>>>(problem,
                                                                                         groups);
  CheckLaunch(launch.op);
}

}  // namespace

void LaunchGroups(GroupScale scale, const Problem& problem, const Launch& launch) {
  if (problem.count == 0) return;
  DispatchFloating(launch.dtype, [&](auto type) {
    DispatchQuantized(launch.result_dtype, [&](auto quantized) {
      using T = typename decltype(type)::type;
      using Q = typename decltype(quantized)::type;
      if (scale == GroupScale::kFloat) {
        LaunchSize<T, Q, GroupScale::kFloat>(problem, launch);
      } else if (scale == GroupScale::kPowerOfTwo) {
        LaunchSize<T, Q, GroupScale::kPowerOfTwo>(problem, launch);
      } else {
        LaunchSize<T, Q, GroupScale::kPacked>(problem, launch);
      }
    });
  });
  const int64_t packs = CeilDiv(problem.groups, 4);
  if (scale != GroupScale::kPacked ||
      (problem.groups % 4 == 0 && problem.padded_rows == problem.rows)) {
    return;
  }
  PaddingKernel<<<32, kThreads, 0, launch.stream>>>(problem, packs);
  CheckLaunch(launch.op);
}

}  // namespace vk::cuda::quant
