// What a wave of an AMD GPU offers. Everything else of this folder is made of it; the tests replace
// it by a host double with waves of 32 and of 64 lanes.
#ifndef VLLM_KERNELS_ROCM_WAVE_H_
#define VLLM_KERNELS_ROCM_WAVE_H_

#include <cstdint>

namespace vk::rocm {

// Of the wave: 64 lanes on CDNA (gfx9), 32 on RDNA (gfx10 and later).
__device__ __forceinline__ unsigned WaveLane() {
  return __builtin_amdgcn_mbcnt_hi(~0u, __builtin_amdgcn_mbcnt_lo(~0u, 0u));
}

// The value of another lane of the wave, which must be running.
__device__ __forceinline__ uint32_t FromLane(unsigned lane, uint32_t value) {
  return static_cast<uint32_t>(
      __builtin_amdgcn_ds_bpermute(static_cast<int>(lane * 4), static_cast<int>(value)));
}

// Memory accesses of the wave's lanes before it come before those after it.
__device__ __forceinline__ void WaveBarrier() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
  __builtin_amdgcn_wave_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
}

__device__ __forceinline__ void BlockBarrier() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}

// Approximations of the hardware, 1 ulp; subnormal numbers are 0.
__device__ __forceinline__ float Exp2(float x) { return __builtin_amdgcn_exp2f(x); }
__device__ __forceinline__ float Reciprocal(float x) { return __builtin_amdgcn_rcpf(x); }

// Atomic in device memory and in shared memory; the value before.
__device__ __forceinline__ int AtomicAdd(int* at, int value) {
  return __hip_atomic_fetch_add(at, value, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
__device__ __forceinline__ int AtomicMax(int* at, int value) {
  return __hip_atomic_fetch_max(at, value, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}

}  // namespace vk::rocm
#endif  // VLLM_KERNELS_ROCM_WAVE_H_
