#include <algorithm>

#include "cuda/common/pdl.cuh"
#include "cuda/common/quantize.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/common/row.cuh"
#include "cuda/quant/launch.h"

namespace vk::cuda::quant {
namespace {

constexpr float kMaxZeroPoint = 4194304.0f;  // 2^22: beyond, float32 has no room for 8 bits more

enum class Kind { kFloat8, kInt8, kInt8ZeroPoint };

// Registers for kVectors vectors are there for this many threads.
template <int kVectors>
inline constexpr int kMaxThreads = kVectors == 8 ? 512 : 1024;

// A row a block. A thread keeps kVectors vectors of it in registers, a block apart; with kVectors 0
// the row is too long for that, or not aligned, and is read a second time.
template <class T, Kind kKind, int kVectors, bool kAligned>
__global__ void __launch_bounds__(kMaxThreads<kVectors>)
    RowKernel(const __grid_constant__ Problem problem) {
  PdlPrologue();
  using Q = std::conditional_t<kKind == Kind::kFloat8, E4M3, int8_t>;
  constexpr int N = kVecSize<T>;
  __shared__ float scratch[2][32];
  const int64_t index = blockIdx.x, width = problem.width;
  const T* row = static_cast<const T*>(problem.input) + problem.input_rows.Offset(index);
  Q* result = static_cast<Q*>(problem.result) + problem.result_rows.Offset(index);

  const auto column_of = [](int64_t vector) { return (vector * blockDim.x + threadIdx.x) * N; };
  Vec<T, N> tile[kVectors > 0 ? kVectors : 1];
#pragma unroll
  for (int vector = 0; vector < kVectors; ++vector) {
    if (column_of(vector) < width) tile[vector] = LoadVec<N>(row + column_of(vector));
  }
  // body(column, x) for this thread's vectors of the row
  const auto for_each = [&](const auto& body) {
    float x[N];
    if constexpr (kVectors > 0) {
#pragma unroll
      for (int vector = 0; vector < kVectors; ++vector) {
        const int64_t column = column_of(vector);
        if (column >= width) continue;
        ToFloats(tile[vector], x);
        body(column, x);
      }
    } else {
      for (int64_t column = column_of(0); column < width; column += int64_t{blockDim.x} * N) {
        LoadVector<kAligned>(row, column, width, x);
        body(column, x);
      }
    }
  };

  float low = FLT_MAX, high = kKind == Kind::kInt8ZeroPoint ? -FLT_MAX : 0.0f;
  for_each([&](int64_t column, const float (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if constexpr (kKind == Kind::kInt8ZeroPoint) {
        // What LoadVector puts past the end is none of the row's values.
        if (!kAligned && column + i >= width) continue;
        low = fminf(low, x[i]);
        high = fmaxf(high, x[i]);
      } else {
        high = fmaxf(high, fabsf(x[i]));
      }
    }
  });
  high = ReduceBlock(high, Max(), scratch[0]);

  float scale, zero_point = 0.0f;
  if constexpr (kKind == Kind::kFloat8) {
    if (problem.scale_ub != nullptr) high = fminf(high, *problem.scale_ub);
    scale = fmaxf(OverQuantMax<Q>(high), MinScale<Q>());
  } else if constexpr (kKind == Kind::kInt8) {
    scale = __fdiv_rn(high, 127.0f);
  } else {
    low = ReduceBlock(low, Min(), scratch[1]);
    scale = __fdiv_rn(high - low, 255.0f);
    if (isinf(scale)) scale = __fdiv_rn(high, 255.0f) - __fdiv_rn(low, 255.0f);
    zero_point = rintf(-128.0f - __fdiv_rn(low, scale));
    if (!(fabsf(zero_point) <= kMaxZeroPoint)) {
      scale = __fdiv_rn(fmaxf(fabsf(low), fabsf(high)), 127.0f);
      zero_point = 0.0f;
    }
  }
  if (threadIdx.x == 0) {
    problem.scales[index] = scale;
    if constexpr (kKind == Kind::kInt8ZeroPoint) {
      problem.zero_points[index] = static_cast<int32_t>(zero_point);
    }
  }

  const Divisor divisor(scale);
  // The bound keeps the inverse of a scale that is 0 or subnormal finite.
  const float inverse = 1.0f / fmaxf(scale, FLT_MIN);
  for_each([&](int64_t column, const float (&x)[N]) {
    float y[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      y[i] = x[i];
      if constexpr (kKind != Kind::kFloat8) y[i] *= inverse;
      if constexpr (kKind == Kind::kInt8ZeroPoint) y[i] = rintf(y[i]) + zero_point;
    }
    if constexpr (kKind == Kind::kFloat8) {
      divisor.Divide(y, 2.0f * kQuantMax<Q>, problem.scale_ub == nullptr);
    }
    StoreVector<kAligned>(result, column, width, y);
  });
}

template <class T, Kind kKind>
void LaunchKind(const Problem& problem, const Launch& launch) {
  const int64_t vectors = CeilDiv(problem.width, kVecSize<T>);
  const auto run = [&](auto kernel, int64_t per_thread) {
    const int64_t needed = RoundUp(CeilDiv(vectors, std::max<int64_t>(per_thread, 1)), 32);
    const int64_t threads = std::clamp<int64_t>(needed, 32, 1024);
    LaunchPdl(launch.op, kernel, GridX(launch.op, problem.rows), threads, 0, launch.stream,
              problem);
  };
  // Few rows leave multiprocessors idle: their blocks are made as wide as they get.
  const bool few = problem.rows < 2 * CurrentDevice(launch.op).multiprocessors;
  const int64_t per_thread = few ? 1 : 2;
  if (!launch.aligned) {
    run(RowKernel<T, kKind, 0, false>, 0);
  } else if (vectors > 8 * kMaxThreads<8>) {
    run(RowKernel<T, kKind, 0, true>, 0);
  } else if (vectors > 2048 || per_thread == 8) {
    run(RowKernel<T, kKind, 8, true>, 8);
  } else if (per_thread == 4 || vectors > 1024) {
    run(RowKernel<T, kKind, 4, true>, 4);
  } else if (per_thread == 2) {
    run(RowKernel<T, kKind, 2, true>, 2);
  } else {
    run(RowKernel<T, kKind, 1, true>, 1);
  }
}

template <class T>
__global__ void ZeroKernel(T* values, int64_t count) {
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index < count) values[index] = T{};
}

}  // namespace

void LaunchRows(const Problem& problem, const Launch& launch) {
  if (problem.rows == 0) return;
  if (problem.width == 0) {
    const unsigned grid = GridX(launch.op, CeilDiv(problem.rows, 256));
    ZeroKernel<float><<<grid, 256, 0, launch.stream>>>(problem.scales, problem.rows);
    if (problem.zero_points != nullptr) {
      ZeroKernel<int32_t><<<grid, 256, 0, launch.stream>>>(problem.zero_points, problem.rows);
    }
    return CheckLaunch(launch.op);
  }
  DispatchFloating(launch.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (launch.result_dtype != VK_I8) {
      LaunchKind<T, Kind::kFloat8>(problem, launch);
    } else if (problem.zero_points == nullptr) {
      LaunchKind<T, Kind::kInt8>(problem, launch);
    } else {
      LaunchKind<T, Kind::kInt8ZeroPoint>(problem, launch);
    }
  });
}

}  // namespace vk::cuda::quant
