// Descriptors of matrices in shared memory for wgmma, in the 128-byte swizzle.
#ifndef VLLM_KERNELS_CUDA_SM90_SMEM_DESC_CUH_
#define VLLM_KERNELS_CUDA_SM90_SMEM_DESC_CUH_

#include <cstdint>

#include "cuda/ptx/wgmma.cuh"

namespace vk::cuda::sm90 {

// "Matrix descriptor" of the PTX ISA: start address, leading and stride offset in units of 16
// bytes; 1 at bit 62 is the 128-byte swizzle. Groups of eight rows of 128 bytes follow each other
// at the stride offset. K-major: rows are those of the matrix, the leading offset is not used and
// is 1. MN-major: rows are along K, and panels of 64 columns lie at the leading offset,
// kPanelBytes.
template <ptx::Major kMajor, int kPanelBytes = 16>
__device__ __forceinline__ uint64_t MakeSmemDesc(uint32_t address) {
  static_assert(kMajor == ptx::Major::kK ? kPanelBytes == 16
                                         : kPanelBytes % 1024 == 0 && kPanelBytes < 1 << 18,
                "offset of the descriptor");
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kStride = uint64_t{1024 >> 4} << 32;
  constexpr uint64_t kLeading = uint64_t{kPanelBytes >> 4} << 16;
  return kSwizzle128 | kStride | kLeading | (address & 0x3ffff) >> 4;
}

// The descriptor of the matrix that begins `bytes`, a multiple of 16, behind that of `desc`: one
// addition, where making it anew takes the address apart again.
__device__ __forceinline__ uint64_t AdvanceSmemDesc(uint64_t desc, uint32_t bytes) {
  const uint32_t low = static_cast<uint32_t>(desc) + (bytes >> 4);
  return desc >> 32 << 32 | low;
}

}  // namespace vk::cuda::sm90
#endif  // VLLM_KERNELS_CUDA_SM90_SMEM_DESC_CUH_
