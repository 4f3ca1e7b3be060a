// Sums, maxima and minima over the lanes of a group, and over a block.
#ifndef VLLM_KERNELS_CUDA_COMMON_REDUCE_CUH_
#define VLLM_KERNELS_CUDA_COMMON_REDUCE_CUH_

#include <cfloat>
#include <cstdint>
#include <type_traits>

namespace vk::cuda {

struct Sum {
  static constexpr float kIdentity = 0.0f;
  __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
};
// Of two values the one that is a number: a NaN is left out.
struct Max {
  static constexpr float kIdentity = -FLT_MAX;
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};
struct Min {
  static constexpr float kIdentity = FLT_MAX;
  __device__ __forceinline__ float operator()(float a, float b) const { return fminf(a, b); }
};

// Of values >= 0, none of them a NaN: their bits are in the same order, and a warp has an
// instruction for integers.
struct MaxMagnitude {
  static constexpr float kIdentity = 0.0f;
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// Over groups of kLanes neighbouring lanes (a power of two up to 32). Every lane gets the result,
// by the same tree of additions whatever its place. All lanes of the warp must call.
template <int kLanes, class Op>
__device__ __forceinline__ float ReduceLanes(float value, Op op) {
#if __CUDA_ARCH__ >= 800
  constexpr bool kInteger = kLanes == 32 && std::is_same_v<Op, MaxMagnitude>;
#else
  constexpr bool kInteger = false;
#endif
  if constexpr (kInteger) {
#if __CUDA_ARCH__ >= 800
    value = __uint_as_float(__reduce_max_sync(0xFFFFFFFFu, __float_as_uint(value)));
#endif
  } else {
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2) {
      value = op(value, __shfl_xor_sync(0xFFFFFFFFu, value, distance));
    }
  }
  return value;
}

// Over a block of any number of whole warps, kWarps (a power of two) at most; every thread gets the
// result. `scratch` is 32 floats of shared memory that no other reduction may be using: two in a
// row need two, or a barrier between them.
template <int kWarps = 32, class Op>
__device__ __forceinline__ float ReduceBlock(float value, Op op, float* scratch) {
  const int warps = static_cast<int>(blockDim.x) / 32;
  value = ReduceLanes<32>(value, op);
  if (warps == 1) return value;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (lane == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  // Every warp reduces all warps' results: one barrier instead of two.
  const int warp = lane % kWarps;
  return ReduceLanes<kWarps>(warp < warps ? scratch[warp] : Op::kIdentity, op);
}

}  // namespace vk::cuda
#endif  // VLLM_KERNELS_CUDA_COMMON_REDUCE_CUH_
