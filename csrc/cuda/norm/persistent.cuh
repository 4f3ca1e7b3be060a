// Norms of many rows with measured scales: persistent blocks, whose next row is loaded while this
// one is reduced and rounded.
#ifndef VLLM_KERNELS_CUDA_NORM_PERSISTENT_CUH_
#define VLLM_KERNELS_CUDA_NORM_PERSISTENT_CUH_

#include "cuda/norm/kernel.cuh"

namespace vk::cuda::norm {

// Threads of a block at most, and of a multiprocessor: what bounds the registers.
constexpr int kPersistentThreads = 256, kPersistentResident = 768;
// Vectors of a row that a thread keeps, in pairs of neighbours: the results of a pair are one
// vector, and the cost of a group is spread over more columns.
constexpr int kVectors = 4, kVectorPairs = kVectors / 2;

template <class T, class Out, Kind kKind>
__global__ void __launch_bounds__(kPersistentThreads, kPersistentResident / kPersistentThreads)
    PersistentNormKernel(const __grid_constant__ Problem problem) {
  PdlPrologue();
  constexpr int N = kVecSize<T>, kColumns = 2 * N;
  __shared__ float scratch[3][kPersistentThreads / 32];
  const int32_t width = static_cast<int32_t>(problem.width);
  const auto column_of = [](int pair) {
    return static_cast<int32_t>(pair * blockDim.x + threadIdx.x) * kColumns;
  };
  // Past the row's end, zeros.
  const auto load = [&](const T* from, uint4(&to)[kVectors]) {
#pragma unroll
    for (int vector = 0; vector < kVectors; ++vector) {
      const int32_t column = column_of(vector / 2) + vector % 2 * N;
      if (column < width) to[vector] = *reinterpret_cast<const uint4*>(from + column);
    }
  };
  const T* input = static_cast<const T*>(problem.input);
  uint4 weights[kVectors] = {};
  load(static_cast<const T*>(problem.weight), weights);
  uint4 tile[kVectors] = {};
  load(input + problem.input_rows.Offset(blockIdx.x), tile);

  int parity = 0;
  for (int64_t index = blockIdx.x; index < problem.rows; index += gridDim.x, parity ^= 1) {
    float sum = 0.0f;
#pragma unroll
    for (int vector = 0; vector < kVectors; ++vector) {
      float x[N];
      ToFloats(BitCast<Vec<T, N>>(tile[vector]), x);
#pragma unroll
      for (int i = 0; i < N; ++i) sum = fmaf(x[i], x[i], sum);
    }
    // Double-buffered: no barrier separates this row from the next.
    sum = ReduceBlock<kPersistentThreads / 32>(sum, Sum(), scratch[parity]);
    const float factor = rsqrtf(fmaf(sum, problem.inverse_width, problem.epsilon));

    Vec<T, N> normed[kVectors];
#pragma unroll
    for (int vector = 0; vector < kVectors; ++vector) {
      float x[N];
      ToFloats(BitCast<Vec<T, N>>(tile[vector]), x);
#pragma unroll
      for (int i = 0; i < N; ++i) x[i] *= factor;
      normed[vector] = Product(FromFloats<T>(x), BitCast<Vec<T, N>>(weights[vector]));
    }
    // Not earlier: separate registers for the next row cost more than the wait.
    if (index + gridDim.x < problem.rows) {
      load(input + problem.input_rows.Offset(index + gridDim.x), tile);
    }

    Out* result = static_cast<Out*>(problem.result) + problem.result_rows.Offset(index);
    const auto store = [&](int pair, const Quantizer<Out>& quantizer) {
      if (column_of(pair) >= width) return;
      float x[N], y[kColumns];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        ToFloats(normed[2 * pair + half], x);
#pragma unroll
        for (int i = 0; i < N; ++i) y[half * N + i] = x[i];
      }
      quantizer(y, problem.scale_ub == nullptr);
      StoreVec(result + column_of(pair), FromFloats<Out>(y));
    };
    if constexpr (kKind == Kind::kPerToken) {
      float abs_max = 0.0f;
#pragma unroll
      for (int vector = 0; vector < kVectors; ++vector) abs_max = AbsMax(abs_max, normed[vector]);
      abs_max = ReduceBlock<kPersistentThreads / 32>(abs_max, MaxMagnitude(), scratch[2]);
      const float scale = ScaleOf<Out>(abs_max, problem.scale_ub);
      if (threadIdx.x == 0) problem.scales[index] = scale;
      const Quantizer<Out> quantizer(scale);
#pragma unroll
      for (int pair = 0; pair < kVectorPairs; ++pair) store(pair, quantizer);
    } else {
      const int32_t shift = problem.group_size == 128 ? 7 : 6;
      float* scales = problem.scales + index * problem.scale_row_stride;
#pragma unroll
      for (int pair = 0; pair < kVectorPairs; ++pair) {
        const float own = AbsMax(AbsMax(0.0f, normed[2 * pair]), normed[2 * pair + 1]);
        const float abs_max = GroupMax<kColumns>(own, problem.group_size);
        const float scale = ScaleOf<Out>(abs_max, problem.scale_ub);
        const int32_t column = column_of(pair);
        if (column < width && (column & (problem.group_size - 1)) == 0) {
          scales[(column >> shift) * problem.scale_group_stride] = scale;
        }
        store(pair, Quantizer<Out>(scale));
      }
    }
  }
}

// Returns false where there are too few rows, or their shape does not suit.
template <class T, class Out, Kind kKind>
bool LaunchPersistent(const Problem& problem, const Launch& launch) {
  const int64_t vectors = problem.width / kVecSize<T>;
  if (!launch.aligned || problem.residual != nullptr || problem.weight == nullptr) return false;
  if (problem.weight_stride != 0 || vectors % 2 != 0) return false;
  if (vectors > kVectors * kPersistentThreads) return false;
  if (!ByteRowsAligned(problem.result, problem.result_rows, 2 * kVecSize<T>)) return false;
  const int64_t threads = RoundUp(CeilDiv(vectors, kVectors), 32);
  const int64_t most = kPersistentResident / threads * CurrentDevice(launch.op).multiprocessors;
  if (problem.rows < 2 * most) return false;
  // The same number of rows for each block, as far as it goes.
  const int64_t blocks = CeilDiv(problem.rows, CeilDiv(problem.rows, most));
  LaunchPdl(launch.op, PersistentNormKernel<T, Out, kKind>, GridX(launch.op, blocks), threads, 0,
            launch.stream, problem);
  return true;
}

// LaunchKind, for the kinds with measured scales.
template <Kind kKind, template <class> class Out>
void LaunchMeasured(const Problem& problem, const Launch& launch) {
  bool done = problem.rows == 0 || problem.width == 0;
  DispatchFloating(launch.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    done = done || LaunchPersistent<T, typename Out<T>::type, kKind>(problem, launch);
  });
  if (!done) LaunchKind<kKind, Out>(problem, launch);
}

}  // namespace vk::cuda::norm
#endif  // VLLM_KERNELS_CUDA_NORM_PERSISTENT_CUH_
