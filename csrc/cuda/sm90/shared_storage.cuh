// Dynamic shared memory as a structure.
#ifndef VLLM_KERNELS_CUDA_SM90_SHARED_STORAGE_CUH_
#define VLLM_KERNELS_CUDA_SM90_SHARED_STORAGE_CUH_

#include "cuda/ptx/cvta.cuh"

namespace vk::cuda::sm90 {

// What the 128-byte swizzle wants of the address of a tile.
constexpr int kTileAlignment = 1024;

// Bytes to launch a kernel with that calls AlignedStorage<Storage>().
template <class Storage>
constexpr int kSharedBytes = static_cast<int>(sizeof(Storage)) + kTileAlignment;

// The first place in dynamic shared memory that is aligned for tiles; the base need not be.
template <class Storage>
__device__ __forceinline__ Storage& AlignedStorage(char* base) {
  constexpr uint32_t kMask = kTileAlignment - 1;
  return *reinterpret_cast<Storage*>(
      base + ((kTileAlignment - (ptx::cvta_to_shared(base) & kMask)) & kMask));
}

}  // namespace vk::cuda::sm90
#endif  // VLLM_KERNELS_CUDA_SM90_SHARED_STORAGE_CUH_
