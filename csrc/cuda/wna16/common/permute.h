#ifndef VLLM_KERNELS_CUDA_WNA16_COMMON_PERMUTE_H_
#define VLLM_KERNELS_CUDA_WNA16_COMMON_PERMUTE_H_

#include <cuda_runtime.h>

#include <cstdint>

namespace vk::cuda::wna16 {

// out[m, j] = a[m, perm[j]], or a[m, j] where perm is null; 16-bit elements, rows of `a` lda apart,
// those of `out` k.
void PermuteColumns(const char* op, void* out, const void* a, int64_t lda, const int32_t* perm,
                    int64_t m, int64_t k, cudaStream_t stream);

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_COMMON_PERMUTE_H_
