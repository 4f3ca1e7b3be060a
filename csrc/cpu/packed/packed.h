// Products with weights that a caller packs into a tensor and passes at every call: 16-bit ones,
// and ones of 8 or 4 bits with scales. Activations keep their dtype.
#ifndef VLLM_KERNELS_CPU_PACKED_PACKED_H_
#define VLLM_KERNELS_CPU_PACKED_PACKED_H_

#include <cstddef>
#include <cstdint>

#include "core/abi.h"

extern "C" {

// Brings weights into the layout that the functions below and vk_cpu_fused_experts read
// (packed_weights.h). It is one for all tiers and takes exactly the memory of the weights.
//   weight: [N, K] or [experts, N, K], any strides: float32 | bfloat16 | float16 | int8 |
//     float8_e4m3fn | uint8, which holds two 4-bit values of K each, the lower ones first
//   packed: its shape and dtype, contiguous, no memory shared with weight; null: checks alone
VK_EXPORT vk_status vk_cpu_convert_weight_packed(const vk_tensor* weight, const vk_tensor* packed);

// Brings scales of groups along K into the order in which products read them: 32 columns' scales of
// a group together, [N/32][groups][32].
//   scale: [N, groups] or [experts, N, groups], uint8, any strides; N is a multiple of 32
//   packed: its shape and dtype, contiguous, no memory shared with scale; null: checks alone
VK_EXPORT vk_status vk_cpu_convert_scale_packed(const vk_tensor* scale, const vk_tensor* packed);

// out = mat1 @ mat2^T + bias, summed in float32.
//   out: [M, N], mat1: [M, K], mat2: [N, K], float32 | bfloat16 | float16, one dtype; the last
//   dimension of out and mat1 contiguous, mat2 contiguous
//   bias: [N], float32 or their dtype, contiguous, or null
//   is_vnni: whether mat2 is packed; else it is packed in this call, and may have any strides
VK_EXPORT vk_status vk_cpu_weight_packed_linear(const vk_tensor* out, const vk_tensor* mat1,
                                                const vk_tensor* mat2, const vk_tensor* bias,
                                                int32_t is_vnni);

// out[m, n] = sum_k mat1[m, k] * mat2[n, k] * scales2[n / block_n, k / block_k] + bias[n]: products
// of a block are summed and scaled in float32.
//   out: [M, N], float32 | bfloat16 | float16;  mat1: [M, K], likewise; last dimension contiguous
//   mat2: [N, K], float8_e4m3fn;  scales2: [ceil(N / block_n), ceil(K / block_k)], float32
//   block_n >= 1; block_k: a multiple of 32, or at least K
//   bias: [N], float32 or mat1's dtype, contiguous, or null;  is_vnni: as above
VK_EXPORT vk_status vk_cpu_fp8_scaled_mm(const vk_tensor* out, const vk_tensor* mat1,
                                         const vk_tensor* mat2, const vk_tensor* scales2,
                                         int64_t block_n, int64_t block_k, const vk_tensor* bias,
                                         int32_t is_vnni);

// out[m, n] = scales2[n] * sum_k mat1[m, k] * mat2[n, k] + bias[n]. mat1 is not rounded to int8.
//   as above, but mat2 int8 and scales2 N values, float32, contiguous
VK_EXPORT vk_status vk_cpu_int8_scaled_mm(const vk_tensor* out, const vk_tensor* mat1,
                                          const vk_tensor* mat2, const vk_tensor* scales2,
                                          const vk_tensor* bias, int32_t is_vnni);

}  // extern "C"

namespace vk {

// What the bits of a weight mean: its dtype's value; an integer of 8 bits; a float of 8 (E4M3, "FP8
// Formats for Deep Learning", Micikevicius et al. 2022); an integer of 4 bits less a zero point; a
// float of 4 bits (E2M1 of the OCP Microscaling formats, 2023).
enum PackedCoding { kPlain, kCodedI8, kCodedE4m3, kCodedI4, kCodedE2m1, kPackedCodings };

// Arrays of three are by vk_dtype: float32, bfloat16, float16.
struct PackedTable {
  // `rows` rows of 64 columns' 32-bit words, of 4 or 8 values of K, to what gemm's kernels read.
  // `zeros` is of the columns, for kCodedI4. Exact.
  using Decode = void(const uint8_t* words, size_t rows, const uint8_t* zeros, void* to);
  Decode* decode[kPackedCodings][3];  // of kPlain: null
  // to[row][i] = sums[row][i] * scales[i], plus to[row][i] unless `first`; 64 columns.
  void (*scale)(float* to, const float* sums, const float* scales, size_t rows, bool first);
  // sums[row][i] += bias[i] for `count` columns; rows are `stride` floats apart.
  using AddBias = void(float* sums, size_t stride, size_t rows, const void* bias, size_t count);
  AddBias* add_bias[3];
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_PACKED_PACKED_H_
