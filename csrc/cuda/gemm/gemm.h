// Products of FP8 (e4m3) or INT8 matrices whose rows, columns or blocks have scales: W8A8 layers.
//
// Tensors are device memory; nothing synchronizes or allocates, so every call can be captured in a
// CUDA graph. `stream` is a cudaStream_t. Optional tensors may be null.
//   FP8:            compute capability 8.9 and newer
//   FP8 by blocks:  9.0 and newer
//   INT8:           7.5 to 9.0
// What a build lacks gives VK_UNSUPPORTED.
#ifndef VLLM_KERNELS_CUDA_GEMM_GEMM_H_
#define VLLM_KERNELS_CUDA_GEMM_GEMM_H_

#include "core/abi.h"

extern "C" {

// out = (a * a_scales) @ (b * b_scales) + bias, summed in float32 (FP8) or int32 (INT8).
//   out:      [M, N], bfloat16 | float16, rows contiguous
//   a:        [M, K], float8_e4m3fn | int8, rows contiguous
//   b:        [K, N], dtype of a, columns contiguous
//   a_scales: float32, contiguous: 1 or M elements; or, for FP8, [M, ceil(K / 128)], one scale for
//             128 elements of a row: columns contiguous, 16-byte aligned, 4 n elements apart
//   b_scales: float32, contiguous: 1 or N elements; or, with such a_scales, [ceil(K / 128),
//             ceil(N / 128)], one scale for a block of 128 x 128: columns contiguous
//   bias:     [N], dtype of out, contiguous, or null; null with scales for blocks
// N and K: multiples of 16, K not 0. Data and strides of out, a and b: multiples of 16 bytes.
VK_EXPORT vk_status vk_cuda_scaled_mm(const vk_tensor* out, const vk_tensor* a, const vk_tensor* b,
                                      const vk_tensor* a_scales, const vk_tensor* b_scales,
                                      const vk_tensor* bias, void* stream);

// As vk_cuda_scaled_mm for int8 activations with zero points:
//   out = a_scales * b_scales * (a @ b - azp * azp_adj) + bias
//   azp_adj:  [N], int32, contiguous: sums of the columns of b; times the zero point where azp is
//             null, which is that of all of a
//   azp:      [M], int32, contiguous, or null
VK_EXPORT vk_status vk_cuda_scaled_mm_azp(const vk_tensor* out, const vk_tensor* a,
                                          const vk_tensor* b, const vk_tensor* a_scales,
                                          const vk_tensor* b_scales, const vk_tensor* azp_adj,
                                          const vk_tensor* azp, const vk_tensor* bias,
                                          void* stream);

// Whether this library multiplies FP8 matrices on GPUs of a capability (90 for 9.0): with scales
// for rows and columns, and with scales for blocks.
VK_EXPORT int32_t vk_cuda_scaled_mm_supports_fp8(int64_t capability);
VK_EXPORT int32_t vk_cuda_scaled_mm_supports_block_fp8(int64_t capability);

}  // extern "C"
#endif  // VLLM_KERNELS_CUDA_GEMM_GEMM_H_
