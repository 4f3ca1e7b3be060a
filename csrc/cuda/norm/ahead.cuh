// Norms of many rows that are quantised by what they measure: blocks that stay and take row after
// row, so that the next one is on its way while this one is reduced and rounded.
#ifndef VLLM_KERNELS_CUDA_NORM_AHEAD_CUH_
#define VLLM_KERNELS_CUDA_NORM_AHEAD_CUH_

#include "cuda/norm/kernel.cuh"

namespace vk::cuda::norm {

// Threads of a block at most, and of a multiprocessor: what bounds the registers.
constexpr int kAheadThreads = 256, kAheadResident = 768;
// Vectors of a row that a thread holds, neighbours two by two: their results are one vector, and
// what a group costs is spread over more columns.
constexpr int kAheadPieces = 4, kAheadPairs = kAheadPieces / 2;

template <class T, class Out, Kind kKind>
__global__ void __launch_bounds__(kAheadThreads, kAheadResident / kAheadThreads)
    AheadNormKernel(const __grid_constant__ Problem problem) {
  PdlPrologue();
  constexpr int N = kVecSize<T>, kColumns = 2 * N;
  __shared__ float scratch[3][kAheadThreads / 32];
  const int32_t width = static_cast<int32_t>(problem.width);
  const auto column_of = [](int pair) {
    return static_cast<int32_t>(pair * blockDim.x + threadIdx.x) * kColumns;
  };
  // Past the row's end, zeros.
  const auto load = [&](const T* from, uint4(&to)[kAheadPieces]) {
#pragma unroll
    for (int piece = 0; piece < kAheadPieces; ++piece) {
      const int32_t column = column_of(piece / 2) + piece % 2 * N;
      if (column < width) to[piece] = *reinterpret_cast<const uint4*>(from + column);
    }
  };
  const T* input = static_cast<const T*>(problem.input);
  uint4 weights[kAheadPieces] = {};
  load(static_cast<const T*>(problem.weight), weights);
  uint4 held[kAheadPieces] = {};
  load(input + problem.input_rows.Offset(blockIdx.x), held);

  int parity = 0;
  for (int64_t index = blockIdx.x; index < problem.rows; index += gridDim.x, parity ^= 1) {
    float sum = 0.0f;
#pragma unroll
    for (int piece = 0; piece < kAheadPieces; ++piece) {
      float x[N];
      ToFloats(BitCast<Vec<T, N>>(held[piece]), x);
#pragma unroll
      for (int i = 0; i < N; ++i) sum = fmaf(x[i], x[i], sum);
    }
    // In turns, for there may be no other barrier till the next row.
    sum = ReduceBlock<kAheadThreads / 32>(sum, Sum(), scratch[parity]);
    const float factor = rsqrtf(fmaf(sum, problem.inverse_width, problem.epsilon));

    Vec<T, N> normed[kAheadPieces];
#pragma unroll
    for (int piece = 0; piece < kAheadPieces; ++piece) {
      float x[N];
      ToFloats(BitCast<Vec<T, N>>(held[piece]), x);
#pragma unroll
      for (int i = 0; i < N; ++i) x[i] *= factor;
      normed[piece] = Product(FromFloats<T>(x), BitCast<Vec<T, N>>(weights[piece]));
    }
    // Not before: registers of its own for the next row cost more than the wait.
    if (index + gridDim.x < problem.rows) {
      load(input + problem.input_rows.Offset(index + gridDim.x), held);
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
      for (int piece = 0; piece < kAheadPieces; ++piece) abs_max = AbsMax(abs_max, normed[piece]);
      abs_max = ReduceBlock<kAheadThreads / 32>(abs_max, MaxMagnitude(), scratch[2]);
      const float scale = ScaleOf<Out>(abs_max, problem.scale_ub);
      if (threadIdx.x == 0) problem.scales[index] = scale;
      const Quantizer<Out> quantizer(scale);
#pragma unroll
      for (int pair = 0; pair < kAheadPairs; ++pair) store(pair, quantizer);
    } else {
      const int32_t shift = problem.group_size == 128 ? 7 : 6;
      float* scales = problem.scales + index * problem.scale_row_stride;
#pragma unroll
      for (int pair = 0; pair < kAheadPairs; ++pair) {
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

// Whether there were rows enough, of a shape that it takes.
template <class T, class Out, Kind kKind>
bool LaunchAhead(const Problem& problem, const Launch& launch) {
  const int64_t pieces = problem.width / kVecSize<T>;
  if (!launch.aligned || problem.residual != nullptr || problem.weight == nullptr) return false;
  if (problem.weight_stride != 0 || pieces % 2 != 0) return false;
  if (pieces > kAheadPieces * kAheadThreads) return false;
  if (!ByteRowsAligned(problem.result, problem.result_rows, 2 * kVecSize<T>)) return false;
  const int64_t threads = RoundUp(CeilDiv(pieces, kAheadPieces), 32);
  const int64_t most = kAheadResident / threads * CurrentDevice(launch.op).multiprocessors;
  if (problem.rows < 2 * most) return false;
  // The same number of rows for each block, as far as it goes.
  const int64_t blocks = CeilDiv(problem.rows, CeilDiv(problem.rows, most));
  LaunchPdl(launch.op, AheadNormKernel<T, Out, kKind>, GridX(launch.op, blocks), threads, 0,
            launch.stream, problem);
  return true;
}

// LaunchKind, for the kinds with measured scales.
template <Kind kKind, template <class> class Out>
void LaunchMeasured(const Problem& problem, const Launch& launch) {
  bool done = problem.rows == 0 || problem.width == 0;
  DispatchFloating(launch.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    done = done || LaunchAhead<T, typename Out<T>::type, kKind>(problem, launch);
  });
  if (!done) LaunchKind<kKind, Out>(problem, launch);
}

}  // namespace vk::cuda::norm
#endif  // VLLM_KERNELS_CUDA_NORM_AHEAD_CUH_
