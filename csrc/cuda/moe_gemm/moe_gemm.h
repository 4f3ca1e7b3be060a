// Products of the tokens of each expert with its weights. Tensors are on the current GPU; work is
// enqueued on `stream` (a cudaStream_t), nothing is allocated or waited for.
#ifndef VLLM_KERNELS_CUDA_MOE_GEMM_MOE_GEMM_H_
#define VLLM_KERNELS_CUDA_MOE_GEMM_MOE_GEMM_H_

#include <stdbool.h>

#include "core/abi.h"

extern "C" {

// Whether vk_cuda_cutlass_moe_mm() serves GPUs of that compute capability (90 is 9.0).
VK_EXPORT bool vk_cuda_group_gemm_supported(int64_t capability);

// out[i] = (a[i] . b[e]^T) * a_scale * b_scale for the rows i of each expert e: those from
// expert_offsets[e] on, as many as problem_sizes[e] says. Other rows of out stay as they are.
// float8 products, summed as the tensor cores sum them (float32 with about 14 bits kept of terms
// that are much smaller than the sum so far).
//   out: [rows, n], bfloat16 | float16, n a multiple of 8, rows aligned to 16 bytes
//   a: [rows, k], float8 e4m3, rows aligned to 16 bytes
//   b: [experts, n, k], or [experts, k, n] with k contiguous: float8 e4m3, as a; 1 to 1024 experts
//   a_scales: float32, contiguous: one a row of a if per_act_token, else one an expert or just one
//   b_scales: float32, contiguous: [experts, n] if per_out_ch, else [experts]
//   expert_offsets: [at least experts], int32 | int64
//   problem_sizes: [experts, 3], int32: rows, n, k of each expert; or n, rows, k. An expert whose
//     sizes name another n has no rows; rows outside of a are left out
//   a_strides, b_strides, c_strides: [experts], int64: not read, the tensors say the same
VK_EXPORT vk_status vk_cuda_cutlass_moe_mm(
    const vk_tensor* out, const vk_tensor* a, const vk_tensor* b, const vk_tensor* a_scales,
    const vk_tensor* b_scales, const vk_tensor* expert_offsets, const vk_tensor* problem_sizes,
    const vk_tensor* a_strides, const vk_tensor* b_strides, const vk_tensor* c_strides,
    bool per_act_token, bool per_out_ch, void* stream);

// Products whose scales belong to blocks, those of a to 128 of k, those of b to 128 x 128:
//   out[i, j] = sum over c: a_scales[i, c] b_scales[e, j / 128, c] (a[i, c] . b[e, j, c])
// for the rows i of each expert e and the chunks c of 128 of k. Sums of a chunk are those of the
// tensor cores, chunks are added up in float32.
//   out: bfloat16, n a multiple of 8; a, b: float8 e4m3, k contiguous; rows of all three aligned to
//     16 bytes. b: [experts, n, k], 1 to 1024 experts
//   a_scales: float32, a's shape with ceil(k / 128) for k; b_scales: float32
//     [experts, ceil(n / 128), ceil(k / 128)]; both of any strides
// Rows of all experts one behind the other:
//   out: [rows, n]; a: [rows, k]; labels: int32 [rows], contiguous, the expert of each row
//   alignment: a multiple of 16. So many rows have one label, or negative ones at the end; what
//     other labels lead to is unspecified, within out. None of the rows is written where the label
//     is no expert's; rows behind the last label that is not negative stay as they are too, and
//     negative ones before it become any numbers
VK_EXPORT vk_status vk_cuda_grouped_mm_labelled(const vk_tensor* out, const vk_tensor* a,
                                                const vk_tensor* a_scales, const vk_tensor* b,
                                                const vk_tensor* b_scales, const vk_tensor* labels,
                                                int64_t alignment, void* stream);
// As many rows for each expert, of which the first counts[e] are used; others of out stay as they
// are:
//   out: [experts, rows, n]; a: [experts, rows, k]; counts: int32 [experts], contiguous
//   expected: about how many rows an expert uses, which decides on speed alone
VK_EXPORT vk_status vk_cuda_grouped_mm_counted(const vk_tensor* out, const vk_tensor* a,
                                               const vk_tensor* a_scales, const vk_tensor* b,
                                               const vk_tensor* b_scales, const vk_tensor* counts,
                                               int64_t expected, void* stream);

}  // extern "C"
#endif  // VLLM_KERNELS_CUDA_MOE_GEMM_MOE_GEMM_H_
