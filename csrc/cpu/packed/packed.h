// Products with weights that a caller packs into a tensor and passes at every call: 16-bit ones,
// and ones of 8 or 4 bits with scales. Activations keep their dtype, except where the weights are
// integers of 4 bits: then they are rounded to int8 (W4A8).
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

// out[b] = mat1[b] @ mat2[b]^T, summed in float32; of float8 times `scale`.
//   out: [B, M, N], mat1: [B, M, K]: float32 | bfloat16 | float16, one dtype; the last dimension
//   contiguous, any other strides
//   mat2: [B, N, K], their dtype or float8_e4m3fn;  is_vnni: as above
//   scale: float32, one value, with float8 alone; else null
VK_EXPORT vk_status vk_cpu_bmm(const vk_tensor* out, const vk_tensor* mat1, const vk_tensor* mat2,
                               int32_t is_vnni, const vk_tensor* scale);

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

// Brings weights of 4-bit integers, with the scales and zero points of groups along K, into what
// vk_cpu_int4_scaled_mm and vk_cpu_fused_experts read. A weight means scale * (q - zero). Only the
// bytes of `packed` and its kin count, not their dimensions: 64 columns lie together, and the last
// ones of N that are fewer.
//   weight: int32, any strides, eight values a word. method 0 (AWQ): [K, N / 8], value j of a word
//     in bits 4 i(j), i = 0, 4, 1, 5, 2, 6, 3, 7; method 1 (GPTQ): [K / 8, N], in bits 4 j
//   zeros: int32 [G, N / 8], any strides, packed along N likewise; of GPTQ less 1
//   scales: float32 | bfloat16 | float16 [G, N], any strides
//   packed: uint8 [N / 32, K / 8, 128], packed_zeros: int8 and packed_scales: float32, both
//     [N / 32, G, 32]; contiguous, of their own memory; all three null: checks alone
// N is a multiple of 32, K / G a whole multiple of 8, K at most 2^20. All may have a first
// dimension more: experts.
VK_EXPORT vk_status vk_cpu_convert_int4(const vk_tensor* weight, const vk_tensor* zeros,
                                        const vk_tensor* scales, int64_t method,
                                        const vk_tensor* packed, const vk_tensor* packed_zeros,
                                        const vk_tensor* packed_scales);

// out[m, n] = s[m] * sum_g scale[g, n] * sum_k a[m, k] * (q[k, n] - zero[g, n]) + bias[n], where
// s[m] = max |x[m]| / 127 and a = round(x / s), ties to even (int8). Sums of a group are exact in
// int32, the others float32. A row of x with a NaN or an infinity has an unspecified result.
//   out: [M, N], x: [M, K], float32 | bfloat16 | float16, one dtype, last dimension contiguous
//   weight, zeros, scales: from vk_cpu_convert_int4, without experts
//   bias: [N], float32 or x's dtype, contiguous, or null
VK_EXPORT vk_status vk_cpu_int4_scaled_mm(const vk_tensor* out, const vk_tensor* x,
                                          const vk_tensor* weight, const vk_tensor* zeros,
                                          const vk_tensor* scales, const vk_tensor* bias);

}  // extern "C"

namespace vk {

// What the bits of a weight mean: its dtype's value; an integer of 8 bits; a float of 8 (E4M3, "FP8
// Formats for Deep Learning", Micikevicius et al. 2022); an integer of 4 bits less a zero point,
// for activations of int8; a float of 4 bits (E2M1 of the OCP Microscaling formats, 2023).
enum PackedCoding { kPlain, kCodedI8, kCodedE4m3, kCodedI4, kCodedE2m1, kPackedCodings };

// Integer sums of one group of K and a panel, and what makes numbers of them.
struct PackedGroup {
  const int32_t* products;  // [rows][64]: sums of a * q
  const float* scales;      // [64]
  const int8_t* zeros;      // [64], of row_sums
  const int32_t* row_sums;  // [rows]: sums of a; null: an earlier part of the group had them
  const float* row_scales;  // [rows]: multiply all sums, those of other groups too; null: 1
  size_t rows;
  bool first;  // sums start at zero
};

// A row as gemm packed it: value after value for `step_bytes`, then again from `step_stride` on.
struct OneRow {
  const char* values;
  size_t step_bytes, step_stride;
};

// Arrays of three are by vk_dtype: float32, bfloat16, float16.
struct PackedTable {
  // `rows` rows of 64 columns' 32-bit words, of 4 or 8 values of K, to what gemm's kernels read.
  // Exact.
  using Decode = void(const uint8_t* words, size_t rows, void* to);
  Decode* decode[kPackedCodings][3];  // of kPlain and kCodedI4: null
  // sums[i] = scales[i] * (one row of A times the same words), plus sums[i] unless `first`; but for
  // tiles the bits of decoding first. For gemm's kernels that pack a value of a row into
  // row_value_bytes: GemmKernel::row_step_bytes says so. Null of kPlain and kCodedI4, and all of
  // them on a tier that has no such kernels.
  using MultiplyRow = void(const uint8_t* words, size_t rows, const OneRow& a, const float* scales,
                           float* sums, bool first);
  MultiplyRow* multiply_row[kPackedCodings][3];
  size_t row_value_bytes[3];
  // sums[row][i] += scales[i] * (products[row][i] - row_sums[row] * zeros[i]), times row_scales.
  void (*add_group)(float* sums, const PackedGroup& group);
  int32_t (*sum)(const int8_t* values, size_t count);
  void (*widen[3])(float* to, const void* from, size_t count);
  // to[row][i] = sums[row][i] * scales[i], plus to[row][i] unless `first`; 64 columns.
  void (*scale)(float* to, const float* sums, const float* scales, size_t rows, bool first);
  // sums[row][i] += bias[i] for `count` columns; rows are `stride` floats apart.
  using AddBias = void(float* sums, size_t stride, size_t rows, const void* bias, size_t count);
  AddBias* add_bias[3];
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_PACKED_PACKED_H_
