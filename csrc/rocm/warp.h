// CUDA's functions of a warp. A warp of the kernels has 32 lanes on every GPU: on one with waves of
// 64 lanes it is half of a wave, and nothing here reaches into the other half.
#ifndef VLLM_KERNELS_ROCM_WARP_H_
#define VLLM_KERNELS_ROCM_WARP_H_

#include <cstdint>
#include <cstring>

#include "rocm/wave.h"

namespace vk::rocm {

constexpr unsigned kWarpLanes = 32;

template <class T>
__device__ __forceinline__ T Shuffle(T value, unsigned lane) {
  static_assert(sizeof(T) == 4);
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  const unsigned first = WaveLane() & ~(kWarpLanes - 1);
  bits = FromLane(first | (lane & (kWarpLanes - 1)), bits);
  memcpy(&value, &bits, sizeof(bits));
  return value;
}

template <class T, class Op>
__device__ __forceinline__ T ReduceWarp(T value, Op op) {
  for (unsigned distance = kWarpLanes / 2; distance > 0; distance /= 2) {
    value = op(value, Shuffle(value, WaveLane() ^ distance));
  }
  return value;
}

}  // namespace vk::rocm

// `width`: of groups of lanes, a power of two; a lane is one of the own group.
template <class T>
__device__ __forceinline__ T __shfl_sync(unsigned, T value, int lane, int width = 32) {
  const unsigned within = static_cast<unsigned>(width) - 1;
  return vk::rocm::Shuffle(
      value, (vk::rocm::WaveLane() & ~within) | (static_cast<unsigned>(lane) & within));
}
template <class T>
__device__ __forceinline__ T __shfl_xor_sync(unsigned, T value, int mask) {
  return vk::rocm::Shuffle(value, vk::rocm::WaveLane() ^ static_cast<unsigned>(mask));
}
template <class T>
__device__ __forceinline__ T __shfl_up_sync(unsigned, T value, int distance) {
  const unsigned lane = vk::rocm::WaveLane() % vk::rocm::kWarpLanes;
  const unsigned by = static_cast<unsigned>(distance);
  return vk::rocm::Shuffle(value, lane >= by ? lane - by : lane);
}

__device__ __forceinline__ int __reduce_add_sync(unsigned, int value) {
  return vk::rocm::ReduceWarp(value, [](int a, int b) { return a + b; });
}
__device__ __forceinline__ uint32_t __reduce_max_sync(unsigned, uint32_t value) {
  return vk::rocm::ReduceWarp(value, [](uint32_t a, uint32_t b) { return a > b ? a : b; });
}
__device__ __forceinline__ uint32_t __reduce_min_sync(unsigned, uint32_t value) {
  return vk::rocm::ReduceWarp(value, [](uint32_t a, uint32_t b) { return a < b ? a : b; });
}

// The lanes of the warp with the same value.
__device__ __forceinline__ uint32_t __match_any_sync(unsigned, int value) {
  uint32_t same = 0;
  for (unsigned lane = 0; lane < vk::rocm::kWarpLanes; ++lane) {
    same |= static_cast<uint32_t>(vk::rocm::Shuffle(value, lane) == value) << lane;
  }
  return same;
}

__device__ __forceinline__ void __syncwarp() { vk::rocm::WaveBarrier(); }
__device__ __forceinline__ void __syncthreads() { vk::rocm::BlockBarrier(); }

#endif  // VLLM_KERNELS_ROCM_WARP_H_
