#include "cuda/hadamard/hadamard.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "cuda/common/launch.h"
#include "cuda/common/pdl.cuh"
#include "cuda/common/row.cuh"
#include "cuda/common/rows.h"

namespace vk::cuda::hadamard {
namespace {

constexpr int kMaxBits = 15, kMaxThreads = 1024;
constexpr int kRadixBits = 3, kRadix = 1 << kRadixBits;

struct Problem {
  const void* x;
  void* out;
  RowMap x_rows, out_rows;
  int64_t rows;
  int32_t bits;   // n = 2^bits
  int32_t block;  // rows of a block
  float scale;
};

// Elements that are 8 or 64 apart, which threads reach together in the first passes, lie in
// different banks of shared memory.
__host__ __device__ constexpr int Place(int i) { return i + (i >> 6) * kRadix; }

// Sums and differences of elements 1, 2, ... 2^(kBits - 1) apart.
template <int kBits>
__device__ __forceinline__ void Butterflies(float (&x)[1 << kBits]) {
#pragma unroll
  for (int bit = 0; bit < kBits; ++bit) {
#pragma unroll
    for (int i = 0; i < (1 << kBits); ++i) {
      const int other = i | (1 << bit);
      if (other == i) continue;
      const float sum = x[i] + x[other];
      x[other] = x[i] - x[other];
      x[i] = sum;
    }
  }
}

// kBits stages on elements `apart` and more apart, those of all rows of the block. The last pass
// writes the result.
template <int kBits, class T>
__device__ __forceinline__ void Pass(const Problem& p, float* shared, int shift, bool last,
                                     int64_t first_row) {
  constexpr int kCount = 1 << kBits;
  const int groups = p.block << (p.bits - kBits), apart = 1 << shift;
  for (int group = threadIdx.x; group < groups; group += blockDim.x) {
    const int first = ((group >> shift) << (shift + kBits)) | (group & (apart - 1));
    float x[kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i) x[i] = shared[Place(first + i * apart)];
    Butterflies<kBits>(x);
    if (!last) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) shared[Place(first + i * apart)] = x[i];
      continue;
    }
    const int64_t row = first_row + (first >> p.bits);
    if (row >= p.rows) continue;
    T* to = static_cast<T*>(p.out) + p.out_rows.Offset(row) + (first & ((1 << p.bits) - 1));
#pragma unroll
    for (int i = 0; i < kCount; ++i) to[i * apart] = FromFloat<T>(x[i] * p.scale);
  }
}

// Rows of 8 elements and more: the first three stages in registers as the row is read, the others
// over shared memory, three a pass.
template <class T, bool kAligned>
__global__ void __launch_bounds__(kMaxThreads) HadamardKernel(const __grid_constant__ Problem p) {
  extern __shared__ float shared[];
  PdlPrologue();
  const int64_t first_row = int64_t{blockIdx.x} * p.block;
  const int groups = p.block << (p.bits - kRadixBits);
  for (int group = threadIdx.x; group < groups; group += blockDim.x) {
    const int first = group * kRadix, column = first & ((1 << p.bits) - 1);
    const int64_t row = first_row + (first >> p.bits);
    float x[kRadix] = {};
    if (row < p.rows) {
      const T* from = static_cast<const T*>(p.x) + p.x_rows.Offset(row) + column;
      constexpr int N = kAligned ? kVecSize<T> : 1;
#pragma unroll
      for (int i = 0; i < kRadix; i += N) {
        float part[N];
        ToFloats(LoadVec<N>(from + i), part);
#pragma unroll
        for (int j = 0; j < N; ++j) x[i + j] = part[j];
      }
    }
    Butterflies<kRadixBits>(x);
#pragma unroll
    for (int i = 0; i < kRadix; ++i) shared[Place(first + i)] = x[i];
  }
  if (p.bits == kRadixBits) {
    __syncthreads();
    Pass<0, T>(p, shared, 0, true, first_row);
    return;
  }
  int shift = kRadixBits;
  while (shift < p.bits) {
    __syncthreads();
    const int rest = p.bits - shift;
    if (rest == 1) {
      Pass<1, T>(p, shared, shift, true, first_row);
    } else if (rest == 2) {
      Pass<2, T>(p, shared, shift, true, first_row);
    } else {
      Pass<kRadixBits, T>(p, shared, shift, rest == kRadixBits, first_row);
    }
    shift += kRadixBits;
  }
}

// Rows of 1, 2 or 4 elements: a thread each.
template <class T, int kBits>
__global__ void __launch_bounds__(256) SmallKernel(const __grid_constant__ Problem p) {
  PdlPrologue();
  const int64_t row = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (row >= p.rows) return;
  const T* from = static_cast<const T*>(p.x) + p.x_rows.Offset(row);
  T* to = static_cast<T*>(p.out) + p.out_rows.Offset(row);
  float x[1 << kBits];
#pragma unroll
  for (int i = 0; i < (1 << kBits); ++i) x[i] = ToFloat(from[i]);
  Butterflies<kBits>(x);
#pragma unroll
  for (int i = 0; i < (1 << kBits); ++i) to[i] = FromFloat<T>(x[i] * p.scale);
}

template <class T>
void LaunchSmall(const char* op, const Problem& p, cudaStream_t stream) {
  const auto kernel = p.bits == 0   ? SmallKernel<T, 0>
                      : p.bits == 1 ? SmallKernel<T, 1>
                                    : SmallKernel<T, 2>;
  LaunchPdl(op, kernel, dim3(GridX(op, CeilDiv(p.rows, 256))), 256, 0, stream, p);
}

template <class T>
void Launch(const char* op, Problem p, bool aligned, cudaStream_t stream) {
  const int groups = 1 << (p.bits - kRadixBits);
  p.block = std::max(1, 256 / groups);
  const int64_t threads = std::min(std::max(groups * p.block, 32), kMaxThreads);
  const int64_t shared = Place(p.block << p.bits) * int64_t{sizeof(float)};
  const int64_t most = CurrentDevice(op).shared_bytes;
  VK_CHECK(shared <= most,
           "%s: rows of %d elements take %lld bytes of shared memory, the GPU has %lld", op,
           1 << p.bits, Print(shared), Print(most));
  const auto kernel = aligned ? HadamardKernel<T, true> : HadamardKernel<T, false>;
  LaunchPdl(op, kernel, dim3(GridX(op, CeilDiv(p.rows, p.block))), threads,
            static_cast<size_t>(shared), stream, p);
}

void Transform(const vk_tensor* out, const vk_tensor* x, void* stream) {
  const char* op = "hadacore_transform";
  const Arg in(op, "x", x), to(op, "out", out);
  in.Dtype({VK_F32, VK_BF16, VK_F16}).MinDims(1).LastDimContiguous();
  to.SameDtype(in).SameShape(in).LastDimContiguous();
  const int64_t width = in.size(-1);
  VK_CHECK(width > 0 && (width & (width - 1)) == 0 && width <= int64_t{1} << kMaxBits,
           "%s: x has shape %s, want a power of two up to 32768 in the last dimension", op,
           ShapeString(*x).c_str());
  Problem p{};
  p.x = x->data, p.out = out->data;
  p.x_rows = RowMap(*x), p.out_rows = RowMap(*out);
  p.rows = vk::Rows(*x).count();
  while (int64_t{1} << p.bits < width) ++p.bits;
  p.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(width)));
  if (p.rows == 0) return;
  const cudaStream_t on = AsStream(stream);
  DispatchFloating(x->dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (p.bits < kRadixBits) {
      LaunchSmall<T>(op, p, on);
    } else {
      Launch<T>(op, p, RowsAligned(*x, 16), on);
    }
  });
}

}  // namespace
}  // namespace vk::cuda::hadamard

extern "C" vk_status vk_cuda_hadacore_transform(const vk_tensor* out, const vk_tensor* x,
                                                void* stream) {
  return vk::Guard([&] { vk::cuda::hadamard::Transform(out, x, stream); });
}
