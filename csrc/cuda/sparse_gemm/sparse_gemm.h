// Products with weights of which two of every four neighbours are zero (2:4), on Hopper.
//
// Tensors are device memory; nothing synchronizes or allocates, so every call can be captured in a
// CUDA graph. `stream` is a cudaStream_t. Optional tensors may be null.
#ifndef VLLM_KERNELS_CUDA_SPARSE_GEMM_SPARSE_GEMM_H_
#define VLLM_KERNELS_CUDA_SPARSE_GEMM_SPARSE_GEMM_H_

#include "core/abi.h"

extern "C" {

// Keeps of every four neighbours in a row the two of largest magnitude (of equals the first).
//   values:   [N, K / 2], dtype of weight, contiguous
//   metadata: vk_cuda_sparse_metadata_bytes(N, K), uint8, contiguous: which were kept, in an order
//             that only vk_cuda_sparse_scaled_mm knows
//   weight:   [N, K], float8_e4m3fn | int8 | bfloat16, rows contiguous; N a multiple of 16,
//             K of 32
VK_EXPORT vk_status vk_cuda_sparse_compress(const vk_tensor* values, const vk_tensor* metadata,
                                            const vk_tensor* weight, void* stream);

VK_EXPORT int64_t vk_cuda_sparse_metadata_bytes(int64_t n, int64_t k);

// out = (a * a_scales) @ (weight * b_scales)^T + bias, summed in float32 (int32 for INT8).
//   out:      [M, N], bfloat16 | float16, rows contiguous; bfloat16 for such weights
//   a:        [M, K], dtype of values, rows contiguous
//   values, metadata: of vk_cuda_sparse_compress
//   a_scales: float32, contiguous: 1 or M elements
//   b_scales: float32, contiguous: 1 or N elements
//   bias:     [N], dtype of out, contiguous, or null
// Data and strides of out and a: multiples of 16 bytes.
VK_EXPORT vk_status vk_cuda_sparse_scaled_mm(const vk_tensor* out, const vk_tensor* a,
                                             const vk_tensor* values, const vk_tensor* metadata,
                                             const vk_tensor* a_scales, const vk_tensor* b_scales,
                                             const vk_tensor* bias, void* stream);

}  // extern "C"
#endif  // VLLM_KERNELS_CUDA_SPARSE_GEMM_SPARSE_GEMM_H_
