// The kernels of every norm: a row a block, read once and kept in registers.
#ifndef VLLM_KERNELS_CUDA_NORM_KERNEL_CUH_
#define VLLM_KERNELS_CUDA_NORM_KERNEL_CUH_

#include <algorithm>

#include "cuda/common/pdl.cuh"
#include "cuda/common/quantize.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/common/row.cuh"
#include "cuda/norm/launch.h"

namespace vk::cuda::norm {

enum class Kind { kPlain, kStatic, kPerToken, kPerGroup };

// The part of a row that one thread keeps in registers: kVectors vectors of N columns, a block
// apart; zeros past the row's end. Packed, as in memory, which takes half the registers of floats.
template <class T, bool kResidual, int kVectors>
class RegisterTile {
 public:
  static constexpr int N = kVecSize<T>;

  __device__ __forceinline__ void Load(const Problem& problem, int64_t row) {
    const T* input = static_cast<const T*>(problem.input) + problem.input_rows.Offset(row);
    const T* residual = static_cast<const T*>(problem.residual);
    if constexpr (kResidual) residual += problem.residual_rows.Offset(row);
    const int32_t width = static_cast<int32_t>(problem.width);
#pragma unroll
    for (int vector = 0; vector < kVectors; ++vector) {
      // All zeros are 0 in every dtype.
      input_[vector] = residual_[kResidual ? vector : 0] = make_uint4(0, 0, 0, 0);
      if (Column(vector) < width) {
        input_[vector] = *reinterpret_cast<const uint4*>(input + Column(vector));
        if constexpr (kResidual) {
          residual_[vector] = *reinterpret_cast<const uint4*>(residual + Column(vector));
        }
      }
    }
  }

  static __device__ __forceinline__ int32_t Column(int32_t vector) {
    return static_cast<int32_t>(vector * blockDim.x + threadIdx.x) * N;
  }

  // Input, or its sum with the residual.
  __device__ __forceinline__ void Get(int vector, float (&x)[N]) const {
    ToFloats(BitCast<Vec<T, N>>(input_[vector]), x);
    if constexpr (kResidual) {
      float more[N];
      ToFloats(BitCast<Vec<T, N>>(residual_[vector]), more);
#pragma unroll
      for (int i = 0; i < N; ++i) x[i] += more[i];
    }
  }

 private:
  // As words: elements that are either 0 or loaded would be assembled one by one, each after its
  // load.
  uint4 input_[kVectors];
  uint4 residual_[kResidual ? kVectors : 1];
};

template <class Q>
__device__ __forceinline__ float ScaleOf(float abs_max, const float* upper_bound) {
  if (upper_bound != nullptr) abs_max = fminf(abs_max, *upper_bound);
  return fmaxf(OverQuantMax<Q>(abs_max), MinScale<Q>());
}

// Largest |x| of the group that neighbouring lanes hold; every one of them gets it.
template <int N>
__device__ __forceinline__ float GroupMax(float abs_max, int group_size) {
  abs_max = ReduceLanes<64 / N>(abs_max, Max());
  if (group_size == 128) {
    abs_max = fmaxf(abs_max, __shfl_xor_sync(0xFFFFFFFFu, abs_max, 64 / N));
  }
  return abs_max;
}

// Threads of a block at most, and blocks that a multiprocessor is to hold of them: what bounds the
// registers, and so how many rows are on their way at once.
template <int kVectors>
inline constexpr int kMaxThreads = kVectors >= 2 ? 512 : 1024;
// Turing's multiprocessor holds 1024 threads, the others' 1536 or more; ptxas refuses to promise
// more.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 750
inline constexpr int kMostBlocks = 2;
#else
inline constexpr int kMostBlocks = 3;
#endif
template <Kind kKind, bool kResidual, int kVectors>
inline constexpr int kMinBlocks =
    kVectors != 2                                                     ? 1
    : !kResidual && (kKind == Kind::kPlain || kKind == Kind::kStatic) ? kMostBlocks
                                                                      : 2;

// Aligned rows that registers can hold. Out: the type written.
template <class T, class Out, Kind kKind, bool kResidual, int kVectors>
__global__ void __launch_bounds__(kMaxThreads<kVectors>, kMinBlocks<kKind, kResidual, kVectors>)
    RegisterNormKernel(const __grid_constant__ Problem problem) {
  PdlPrologue();
  constexpr int N = kVecSize<T>;
  __shared__ float scratch[2][32];
  const int64_t index = blockIdx.x;
  const int32_t width = static_cast<int32_t>(problem.width);
  const T* weight = static_cast<const T*>(problem.weight);
  const bool weighted = weight != nullptr;
  if (problem.weight_stride != 0) {
    weight += index / problem.rows_per_weight * problem.weight_stride;
  }
  RegisterTile<T, kResidual, kVectors> row;
  // The weights first, each with a condition of its own: else the compiler lets them wait for the
  // row.
  Vec<T, N> weights[kVectors];
#pragma unroll
  for (int vector = 0; vector < kVectors; ++vector) {
    const int32_t column = row.Column(vector);
    if (weighted && column < width) weights[vector] = LoadVec<N>(weight + column);
  }
  row.Load(problem, index);

  float sum = 0.0f;
  T* residual = static_cast<T*>(problem.residual);
  if constexpr (kResidual) residual += problem.residual_rows.Offset(index);
#pragma unroll
  for (int vector = 0; vector < kVectors; ++vector) {
    float x[N];
    row.Get(vector, x);
#pragma unroll
    for (int i = 0; i < N; ++i) sum = fmaf(x[i], x[i], sum);
    if constexpr (kResidual) {
      if (row.Column(vector) < width) StoreVec(residual + row.Column(vector), FromFloats<T>(x));
    }
  }
  sum = ReduceBlock(sum, Sum(), scratch[0]);
  const float factor = rsqrtf(fmaf(sum, problem.inverse_width, problem.epsilon));

  const float static_inverse = kKind == Kind::kStatic ? 1.0f / *problem.scale : 1.0f;
  Out* result = static_cast<Out*>(problem.result) + problem.result_rows.Offset(index);
  Vec<T, N> normed[kVectors];
  float abs_max = 0.0f;
#pragma unroll
  for (int vector = 0; vector < kVectors; ++vector) {
    const int32_t column = row.Column(vector);
    const bool inside = column < width;
    float y[N];
    row.Get(vector, y);
#pragma unroll
    for (int i = 0; i < N; ++i) y[i] *= factor;
    normed[vector] = FromFloats<T>(y);
    if (weighted && inside) normed[vector] = Product(normed[vector], weights[vector]);
    if constexpr (kKind == Kind::kPlain) {
      if (inside) StoreVec(result + column, normed[vector]);
    } else if constexpr (kKind == Kind::kStatic) {
      ToFloats(normed[vector], y);
#pragma unroll
      for (int i = 0; i < N; ++i) y[i] *= static_inverse;
      if (inside) StoreVec(result + column, FromFloats<Out>(y));
    } else if constexpr (kKind == Kind::kPerToken) {
      abs_max = AbsMax(abs_max, normed[vector]);
    } else {
      const float group_max = GroupMax<N>(AbsMax(0.0f, normed[vector]), problem.group_size);
      const float scale = ScaleOf<Out>(group_max, problem.scale_ub);
      const int32_t shift = problem.group_size == 128 ? 7 : 6;
      if (inside && (column & (problem.group_size - 1)) == 0) {
        problem.scales[index * problem.scale_row_stride +
                       (column >> shift) * problem.scale_group_stride] = scale;
      }
      ToFloats(normed[vector], y);
      const Quantizer<Out> quantizer(scale);
      quantizer(y, problem.scale_ub == nullptr);
      if (inside) StoreVec(result + column, FromFloats<Out>(y));
    }
  }
  if constexpr (kKind == Kind::kPerToken) {
    const float row_max = ReduceBlock(abs_max, Max(), scratch[1]);
    const float scale = ScaleOf<Out>(row_max, problem.scale_ub);
    if (threadIdx.x == 0) problem.scales[index] = scale;
    const Quantizer<Out> quantizer(scale);
#pragma unroll
    for (int vector = 0; vector < kVectors; ++vector) {
      if (row.Column(vector) >= width) break;
      float y[N];
      ToFloats(normed[vector], y);
      quantizer(y, problem.scale_ub == nullptr);
      StoreVec(result + row.Column(vector), FromFloats<Out>(y));
    }
  }
}

// Rows that are too long for registers, or not aligned: every pass reads them again.
template <class T, class Out, Kind kKind, bool kResidual, bool kAligned>
__global__ void __launch_bounds__(1024) LongNormKernel(const __grid_constant__ Problem problem) {
  PdlPrologue();
  constexpr int N = kVecSize<T>;
  __shared__ float scratch[2][32];
  const int64_t index = blockIdx.x;
  const int32_t width = static_cast<int32_t>(problem.width);
  const T* input = static_cast<const T*>(problem.input) + problem.input_rows.Offset(index);
  T* residual = static_cast<T*>(problem.residual);
  if constexpr (kResidual) residual += problem.residual_rows.Offset(index);
  const T* weight = static_cast<const T*>(problem.weight);
  if (problem.weight_stride != 0) {
    weight += index / problem.rows_per_weight * problem.weight_stride;
  }
  // body(column, x). Every thread of the block makes the same number of calls: past the end, x is 0
  // and column >= width.
  const auto for_each = [&](const auto& body) {
    const int32_t block = static_cast<int32_t>(blockDim.x) * N;
    for (int32_t first = 0; first < width; first += block) {
      const int32_t column = first + static_cast<int32_t>(threadIdx.x) * N;
      float x[N] = {};
      if (column < width) {
        LoadVector<kAligned>(input, column, width, x);
        if constexpr (kResidual) {
          float more[N];
          LoadVector<kAligned>(static_cast<const T*>(residual), column, width, more);
#pragma unroll
          for (int i = 0; i < N; ++i) x[i] += more[i];
        }
      }
      body(column, x);
    }
  };

  float sum = 0.0f;
  for_each([&](int32_t, const float (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) sum = fmaf(x[i], x[i], sum);
  });
  sum = ReduceBlock(sum, Sum(), scratch[0]);
  const float factor = rsqrtf(fmaf(sum, problem.inverse_width, problem.epsilon));

  const auto normed = [&](int32_t column, const float (&x)[N], float (&y)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) y[i] = x[i] * factor;
    if (weight == nullptr) return;
    RoundAll<T>(y);
    float w[N];
    LoadVector<kAligned>(weight, column, width, w);
#pragma unroll
    for (int i = 0; i < N; ++i) y[i] *= w[i];
  };

  float scale = 1.0f;
  if constexpr (kKind == Kind::kPerToken) {
    float abs_max = 0.0f;
    for_each([&](int32_t column, const float (&x)[N]) {
      if (column >= width) return;
      float y[N];
      normed(column, x, y);
      RoundAll<T>(y);
#pragma unroll
      for (int i = 0; i < N; ++i) abs_max = fmaxf(abs_max, fabsf(y[i]));
    });
    scale = ScaleOf<Out>(ReduceBlock(abs_max, Max(), scratch[1]), problem.scale_ub);
    if (threadIdx.x == 0) problem.scales[index] = scale;
  }
  const float static_inverse = kKind == Kind::kStatic ? 1.0f / *problem.scale : 1.0f;

  Out* result = static_cast<Out*>(problem.result) + problem.result_rows.Offset(index);
  for_each([&](int32_t column, const float (&x)[N]) {
    float y[N] = {};
    if (column < width) normed(column, x, y);
    if constexpr (kKind != Kind::kPlain) RoundAll<T>(y);
    if constexpr (kKind == Kind::kPerGroup) {
      float abs_max = 0.0f;
#pragma unroll
      for (int i = 0; i < N; ++i) abs_max = fmaxf(abs_max, fabsf(y[i]));
      scale = ScaleOf<Out>(GroupMax<N>(abs_max, problem.group_size), problem.scale_ub);
      const int32_t shift = problem.group_size == 128 ? 7 : 6;
      if (column < width && (column & (problem.group_size - 1)) == 0) {
        problem.scales[index * problem.scale_row_stride +
                       (column >> shift) * problem.scale_group_stride] = scale;
      }
    }
    if (column >= width) return;
    if constexpr (kResidual) StoreVector<kAligned>(residual, column, width, x);
    if constexpr (kKind == Kind::kStatic) {
#pragma unroll
      for (int i = 0; i < N; ++i) y[i] *= static_inverse;
    } else if constexpr (kKind != Kind::kPlain) {
      const Quantizer<Out> quantizer(scale);
      quantizer(y, problem.scale_ub == nullptr);
    }
    StoreVector<kAligned>(result, column, width, y);
  });
}

template <class T, class Out, Kind kKind, bool kResidual>
void LaunchRows(const Problem& problem, const Launch& launch) {
  const int64_t vectors = CeilDiv(problem.width, kVecSize<T>);
  const auto run = [&](auto kernel, int64_t per_thread) {
    const int64_t threads = std::min<int64_t>(RoundUp(CeilDiv(vectors, per_thread), 32), 1024);
    LaunchPdl(launch.op, kernel, GridX(launch.op, problem.rows), threads, 0, launch.stream,
              problem);
  };
  // Few rows leave multiprocessors idle: their blocks are made as wide as they get.
  const bool few = problem.rows < 2 * CurrentDevice(launch.op).multiprocessors;
  // Per-thread overhead amortises over more of the row; when quantising it dominates, so each
  // thread takes 4 vectors.
  const int64_t per_thread = few ? 1 : kKind == Kind::kPlain ? 2 : 4;
  if (!launch.aligned) {
    run(LongNormKernel<T, Out, kKind, kResidual, false>, 1);
  } else if (per_thread == 1 && vectors <= kMaxThreads<1>) {
    run(RegisterNormKernel<T, Out, kKind, kResidual, 1>, 1);
  } else if (per_thread <= 2 && vectors <= 2 * kMaxThreads<2>) {
    run(RegisterNormKernel<T, Out, kKind, kResidual, 2>, 2);
  } else if (vectors <= 4 * kMaxThreads<4>) {
    run(RegisterNormKernel<T, Out, kKind, kResidual, 4>, 4);
  } else {
    run(LongNormKernel<T, Out, kKind, kResidual, true>, 1);
  }
}

// Over the element types and the residual; Out<T> is what is written.
template <Kind kKind, template <class> class Out>
void LaunchKind(const Problem& problem, const Launch& launch) {
  if (problem.rows == 0 || problem.width == 0) return;
  DispatchFloating(launch.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (problem.residual != nullptr) {
      LaunchRows<T, typename Out<T>::type, kKind, true>(problem, launch);
    } else {
      LaunchRows<T, typename Out<T>::type, kKind, false>(problem, launch);
    }
  });
}

template <class T>
using ToE4M3 = Type<E4M3>;
template <class T>
using ToInt8 = Type<int8_t>;

}  // namespace vk::cuda::norm
#endif  // VLLM_KERNELS_CUDA_NORM_KERNEL_CUH_
