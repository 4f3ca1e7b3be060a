// The kernel of every norm: a row a block, read once and kept in registers.
#ifndef VLLM_KERNELS_CUDA_NORM_KERNEL_CUH_
#define VLLM_KERNELS_CUDA_NORM_KERNEL_CUH_

#include <algorithm>
#include <cstring>

#include "cuda/common/quantize.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/common/row.cuh"
#include "cuda/norm/launch.h"

namespace vk::cuda::norm {

enum class Kind { kPlain, kStatic, kPerToken, kPerGroup };

// What one thread holds of a row: `kPieces` pieces of N columns, a block apart. With kPieces 0 the
// row is too long for registers, or not aligned, and every pass reads it again.
template <class T, bool kResidual, int kPieces, bool kAligned>
class Row {
 public:
  static constexpr int N = kVecSize<T>;

  __device__ __forceinline__ Row(const Problem& problem, int64_t row)
      : input_(static_cast<const T*>(problem.input) + problem.input_rows.Offset(row)),
        residual_(static_cast<const T*>(problem.residual) +
                  (kResidual ? problem.residual_rows.Offset(row) : 0)),
        width_(static_cast<int32_t>(problem.width)) {
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      if (Column(piece) < width_) {
        held_[piece] = LoadVec<N>(input_ + Column(piece));
        if constexpr (kResidual) added_[piece] = LoadVec<N>(residual_ + Column(piece));
      } else {
        // All zeros are 0 in every dtype.
        memset(&held_[piece], 0, sizeof(held_[piece]));
        if constexpr (kResidual) memset(&added_[piece], 0, sizeof(added_[piece]));
      }
    }
  }

  static __device__ __forceinline__ int32_t Column(int32_t piece) {
    return static_cast<int32_t>(piece * blockDim.x + threadIdx.x) * N;
  }

  // body(piece, column, x) for all pieces. Every thread of the block makes the same number of
  // calls: past the end, x is 0 and column >= width.
  template <class Body>
  __device__ __forceinline__ void ForEach(const Body& body) const {
    float x[N];
    if constexpr (kPieces > 0) {
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece) {
        // As the vectors are in memory, which takes half the registers of floats.
        ToFloats(held_[piece], x);
        if constexpr (kResidual) {
#pragma unroll
          for (int i = 0; i < N; ++i) x[i] += ToFloat(added_[piece][i]);
        }
        body(piece, Column(piece), x);
      }
    } else {
      const int32_t pieces = (width_ + blockDim.x * N - 1) / (blockDim.x * N);
      for (int32_t piece = 0; piece < pieces; ++piece) {
        const int32_t column = Column(piece);
#pragma unroll
        for (float& one : x) one = 0.0f;
        if (column < width_) {
          LoadPiece<kAligned>(input_, column, width_, x);
          if constexpr (kResidual) {
            float more[N];
            LoadPiece<kAligned>(residual_, column, width_, more);
#pragma unroll
            for (int i = 0; i < N; ++i) x[i] += more[i];
          }
        }
        body(0, column, x);
      }
    }
  }

 private:
  static constexpr int kHeld = kPieces > 0 ? kPieces : 1;
  const T* input_;
  const T* residual_;
  int32_t width_;
  Vec<T, N> held_[kHeld];
  Vec<T, N> added_[kResidual ? kHeld : 1];
};

template <class Q>
__device__ __forceinline__ float ScaleOf(float abs_max, const float* upper_bound) {
  if (upper_bound != nullptr) abs_max = fminf(abs_max, *upper_bound);
  return fmaxf(__fdiv_rn(abs_max, kQuantMax<Q>), MinScale<Q>());
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
template <int kPieces>
inline constexpr int kMaxThreads = kPieces >= 2 ? 512 : 1024;
template <Kind kKind, bool kResidual, int kPieces>
inline constexpr int kMinBlocks =
    kPieces != 2                                                      ? 1
    : !kResidual && (kKind == Kind::kPlain || kKind == Kind::kStatic) ? 3
                                                                      : 2;

// Out: the type written.
template <class T, class Out, Kind kKind, bool kResidual, int kPieces, bool kAligned>
__global__ void __launch_bounds__(kMaxThreads<kPieces>, kMinBlocks<kKind, kResidual, kPieces>)
    NormKernel(const __grid_constant__ Problem problem) {
  constexpr int N = kVecSize<T>;
  __shared__ float scratch[2][32];
  const int64_t index = blockIdx.x;
  const int32_t width = static_cast<int32_t>(problem.width);
  Row<T, kResidual, kPieces, kAligned> row(problem, index);
  const T* weight = static_cast<const T*>(problem.weight);
  if (problem.weight_stride != 0) {
    weight += index / problem.rows_per_weight * problem.weight_stride;
  }
  // The weights are on their way while the block waits for the sum.
  Vec<T, N> weights[kPieces > 0 ? kPieces : 1];
  if (weight != nullptr) {
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      const int32_t column = row.Column(piece);
      if (column < width) weights[piece] = LoadVec<N>(weight + column);
    }
  }

  float sum = 0.0f;
  row.ForEach([&](int, int32_t, const float (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) sum = fmaf(x[i], x[i], sum);
  });
  sum = ReduceBlock(sum, Sum(), scratch[0]);
  const float factor = rsqrtf(fmaf(sum, problem.inverse_width, problem.epsilon));

  const auto normed = [&](int piece, int32_t column, const float (&x)[N], float (&y)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) y[i] = x[i] * factor;
    if (weight == nullptr) return;
    RoundAll<T>(y);
    float w[N];
    if constexpr (kPieces > 0) {
      ToFloats(weights[piece], w);
    } else {
      LoadPiece<kAligned>(weight, column, width, w);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) y[i] *= w[i];
  };

  Quantizer<Out> quantizer(1.0f);
  float static_inverse = 1.0f;
  if constexpr (kKind == Kind::kStatic) static_inverse = 1.0f / *problem.scale;
  // With a scale for the row, what has been normed for its measurement is kept.
  constexpr bool kKeeps = kKind == Kind::kPerToken && kPieces > 0;
  Vec<T, N> kept[kKeeps ? kPieces : 1];
  T* residual = static_cast<T*>(problem.residual);
  if constexpr (kResidual) residual += problem.residual_rows.Offset(index);
  if constexpr (kKind == Kind::kPerToken) {
    float abs_max = 0.0f;
    row.ForEach([&](int piece, int32_t column, const float (&x)[N]) {
      if (column >= width) return;
      float y[N];
      normed(piece, column, x, y);
      if constexpr (kKeeps) {
        kept[piece] = FromFloats<T>(y);
        ToFloats(kept[piece], y);
        if constexpr (kResidual) StorePiece<kAligned>(residual, column, width, x);
      } else {
        RoundAll<T>(y);
      }
#pragma unroll
      for (int i = 0; i < N; ++i) abs_max = fmaxf(abs_max, fabsf(y[i]));
    });
    const float scale = ScaleOf<Out>(ReduceBlock(abs_max, Max(), scratch[1]), problem.scale_ub);
    if (threadIdx.x == 0) problem.scales[index] = scale;
    quantizer = Quantizer<Out>(scale);
  }

  Out* result = static_cast<Out*>(problem.result) + problem.result_rows.Offset(index);
  row.ForEach([&](int piece, int32_t column, const float (&x)[N]) {
    float y[N] = {};
    if constexpr (kKeeps) {
      if (column < width) ToFloats(kept[piece], y);
    } else {
      if (column < width) normed(piece, column, x, y);
      if constexpr (kKind != Kind::kPlain) RoundAll<T>(y);
    }
    if constexpr (kKind == Kind::kPerGroup) {
      float abs_max = 0.0f;
#pragma unroll
      for (int i = 0; i < N; ++i) abs_max = fmaxf(abs_max, fabsf(y[i]));
      const float scale = ScaleOf<Out>(GroupMax<N>(abs_max, problem.group_size), problem.scale_ub);
      const int32_t shift = problem.group_size == 128 ? 7 : 6;
      if (column < width && (column & (problem.group_size - 1)) == 0) {
        problem.scales[index * problem.scale_row_stride +
                       (column >> shift) * problem.scale_group_stride] = scale;
      }
      quantizer = Quantizer<Out>(scale);
    }
    if (column >= width) return;
    if constexpr (kResidual && !kKeeps) StorePiece<kAligned>(residual, column, width, x);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if constexpr (kKind == Kind::kStatic) y[i] *= static_inverse;
      if constexpr (kKind == Kind::kPerToken || kKind == Kind::kPerGroup) y[i] = quantizer(y[i]);
    }
    StorePiece<kAligned>(result, column, width, y);
  });
}

template <class T, class Out, Kind kKind, bool kResidual>
void LaunchRows(const Problem& problem, const Launch& launch) {
  const int64_t pieces = CeilDiv(problem.width, kVecSize<T>);
  const auto run = [&](auto kernel, int64_t per_thread) {
    const int64_t needed = CeilDiv(CeilDiv(pieces, std::max<int64_t>(per_thread, 1)), 32) * 32;
    const int64_t threads = std::min<int64_t>(needed, 1024);
    kernel<<<GridX(launch.op, problem.rows), static_cast<unsigned>(threads), 0, launch.stream>>>(
        problem);
    CheckLaunch(launch.op);
  };
  // Few rows leave multiprocessors idle: their blocks are made as wide as they get.
  const bool few = problem.rows < 2 * CurrentDevice(launch.op).multiprocessors;
  const int64_t per_thread = few ? 1 : Tuned("VK_NORM_PIECES", 2);
  if (!launch.aligned) {
    run(NormKernel<T, Out, kKind, kResidual, 0, false>, 0);
  } else if (per_thread == 1 && pieces <= kMaxThreads<1>) {
    run(NormKernel<T, Out, kKind, kResidual, 1, true>, 1);
  } else if (per_thread <= 2 && pieces <= 2 * kMaxThreads<2>) {
    run(NormKernel<T, Out, kKind, kResidual, 2, true>, 2);
  } else if (pieces <= 4 * kMaxThreads<4>) {
    run(NormKernel<T, Out, kKind, kResidual, 4, true>, 4);
  } else {
    run(NormKernel<T, Out, kKind, kResidual, 0, true>, 0);
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
