// SiTU of both halves, quantised by a scale for each row or each 128 columns of it.
#include <algorithm>

#include "cuda/activation/gate.cuh"

namespace vk::cuda::activation {
namespace {

constexpr float kLeast = 1e-10f;
constexpr int kGroup = 128;
constexpr int64_t kBlocksPerSm = 8;

__device__ __forceinline__ int64_t RowsToDo(const Problem& problem, const ValidRows& valid) {
  if (valid.tokens == nullptr) return problem.rows;
  const int64_t tokens = valid.wide ? *static_cast<const int64_t*>(valid.tokens)
                                    : *static_cast<const int32_t*>(valid.tokens);
  if (tokens <= 0) return 0;
  return tokens < problem.rows / valid.factor ? tokens * valid.factor : problem.rows;
}

// A row's scales where it is padding.
template <bool kGroups>
__device__ __forceinline__ void WriteOnes(const Problem& problem, float* scales) {
  const int64_t groups = kGroups ? problem.width / kGroup : 1;
  for (int64_t i = threadIdx.x; i < groups; i += blockDim.x) {
    scales[i * problem.scale_group_stride] = 1.0f;
  }
}

// One row's vectors.
template <class T, bool kAligned>
struct Row {
  static constexpr int N = kVecSize<T>;

  __device__ __forceinline__ Row(const Problem& p, int64_t row)
      : problem(p),
        from(static_cast<const T*>(p.input) + p.input_rows.Offset(row)),
        out(static_cast<E4M3*>(p.out) + p.out_rows.Offset(row)) {}

  __device__ __forceinline__ void Activate(uint32_t vector, float (&y)[N]) const {
    float up[N];
    const int64_t column = int64_t{vector} * N;
    LoadVector<kAligned>(from, column, problem.width, y);
    LoadVector<kAligned>(from + problem.up, column, problem.width, up);
    ActivateAndMultiply<Gate::kSitu, T>(problem, y, up);
  }

  __device__ __forceinline__ void Store(uint32_t vector, const Divisor& divisor,
                                        float (&y)[N]) const {
    divisor.Divide(y, 2.0f * kQuantMax<E4M3>, true);
    StoreVector<kAligned>(out, int64_t{vector} * N, problem.width, y);
  }

  const Problem& problem;
  const T* const from;
  E4M3* const out;
};

template <int N>
__device__ __forceinline__ float Largest(float before, const float (&y)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) before = fmaxf(before, fabsf(y[i]));
  return before;
}

// Scales of groups: the lanes that hold one find its largest value.
template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    SituGroupsKernel(const __grid_constant__ Problem problem, const ValidRows valid) {
  constexpr int N = kVecSize<T>, kLanes = kGroup / N;
  PdlPrologue();
  const int64_t rows = RowsToDo(problem, valid);
  const uint32_t vectors = problem.vectors.divisor();
  for (int64_t index = blockIdx.x; index < problem.rows; index += gridDim.x) {
    float* const scales = problem.scales + index * problem.scale_row_stride;
    if (index >= rows) {
      WriteOnes<true>(problem, scales);
      continue;
    }
    const Row<T, kAligned> row(problem, index);
    for (uint32_t base = 0; base < vectors; base += kThreads) {
      const uint32_t vector = base + threadIdx.x;
      const bool active = vector < vectors;
      float y[N];
      row.Activate(active ? vector : vectors - 1, y);  // all of a warp take part in the reduction
      const float scale = OverQuantMax<E4M3>(ReduceLanes<kLanes>(Largest(kLeast, y), Max()));
      if (!active) continue;
      if (vector % kLanes == 0) scales[vector / kLanes * problem.scale_group_stride] = scale;
      row.Store(vector, Divisor(scale), y);
    }
  }
}

constexpr int kRowThreads = 512;
constexpr int kHeld = 4;  // vectors of a thread that stay in registers

// One scale a row. kHolds: all of it fits the threads' registers.
template <class T, bool kAligned, bool kHolds>
__global__ void __launch_bounds__(kRowThreads)
    SituRowsKernel(const __grid_constant__ Problem problem, const ValidRows valid) {
  constexpr int N = kVecSize<T>;
  __shared__ float scratch[2][32];
  PdlPrologue();
  const int64_t rows = RowsToDo(problem, valid);
  const uint32_t vectors = problem.vectors.divisor();
  int turn = 0;
  for (int64_t index = blockIdx.x; index < problem.rows; index += gridDim.x) {
    float* const scales = problem.scales + index * problem.scale_row_stride;
    if (index >= rows) {
      WriteOnes<false>(problem, scales);
      continue;
    }
    const Row<T, kAligned> row(problem, index);
    float held[kHolds ? kHeld : 1][N], most = kLeast;
    if constexpr (kHolds) {
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const uint32_t vector = i * blockDim.x + threadIdx.x;
        if (vector >= vectors) break;
        row.Activate(vector, held[i]);
        most = Largest(most, held[i]);
      }
    } else {
      for (uint32_t vector = threadIdx.x; vector < vectors; vector += blockDim.x) {
        row.Activate(vector, held[0]);
        most = Largest(most, held[0]);
      }
    }
    most = ReduceBlock<kRowThreads / 32>(most, Max(), scratch[turn]);
    turn ^= 1;
    const float scale = OverQuantMax<E4M3>(most);
    const Divisor divisor(scale);
    if (threadIdx.x == 0) *scales = scale;
    if constexpr (kHolds) {
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const uint32_t vector = i * blockDim.x + threadIdx.x;
        if (vector >= vectors) break;
        row.Store(vector, divisor, held[i]);
      }
    } else {
      // Activated again: the row is in the caches.
      for (uint32_t vector = threadIdx.x; vector < vectors; vector += blockDim.x) {
        row.Activate(vector, held[0]);
        row.Store(vector, divisor, held[0]);
      }
    }
  }
}

}  // namespace

void LaunchSituQuant(const Problem& problem, const ValidRows& valid, const Launch& launch) {
  if (problem.count == 0) return;
  const int64_t most = kBlocksPerSm * CurrentDevice(launch.op).multiprocessors;
  const unsigned blocks = GridX(launch.op, std::min(problem.rows, most));
  const int64_t vectors = problem.count / problem.rows;
  const int64_t threads = std::clamp<int64_t>(CeilDiv(vectors, 32) * 32, 64, kRowThreads);
  DispatchFloating(launch.dtype, [&](auto type) {
    DispatchBool(launch.aligned, [&](auto aligned) {
      using T = typename decltype(type)::type;
      constexpr bool kAligned = decltype(aligned)::value;
      if (problem.group_size != 0) {
        return LaunchPdl(launch.op, SituGroupsKernel<T, kAligned>, blocks, kThreads, 0,
                         launch.stream, problem, valid);
      }
      const auto kernel = vectors <= threads * kHeld ? SituRowsKernel<T, kAligned, true>
                                                     : SituRowsKernel<T, kAligned, false>;
      LaunchPdl(launch.op, kernel, blocks, threads, 0, launch.stream, problem, valid);
    });
  });
}

}  // namespace vk::cuda::activation
