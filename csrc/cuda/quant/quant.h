// Quantisation of activations to float8_e4m3fn ("FP8 Formats for Deep Learning", Micikevicius et
// al. 2022) and to int8 (Jacob et al., "Quantization and Training of Neural Networks for Efficient
// Integer-Arithmetic-Only Inference", 2018). Tensors are on the current GPU; work is enqueued on
// `stream` (a cudaStream_t), nothing is allocated or waited for.
//
// input is [..., hidden], float32 | bfloat16 | float16, and result its shape, both with a
// contiguous last dimension. float8 saturates and keeps a NaN; int8 rounds ties to even, saturates,
// and a NaN gives 0. A "row" is what the leading dimensions count.
#ifndef VLLM_KERNELS_CUDA_QUANT_QUANT_H_
#define VLLM_KERNELS_CUDA_QUANT_QUANT_H_

#include <stdbool.h>

#include "core/abi.h"

extern "C" {

// result = float8(input * (1 / scale)), element (i, j) by scale (i / group_m, j / group_n)
//   scale: float32: one element; or [rows / group_m, hidden / group_n]; or 1-D with one of these
//     two 1, which needs group_shape
//   group_shape: {group_m, group_n}, -1 for all rows or columns; null where the shape tells
VK_EXPORT vk_status vk_cuda_static_scaled_fp8_quant(const vk_tensor* result, const vk_tensor* input,
                                                    const vk_tensor* scale,
                                                    const int64_t* group_shape, void* stream);

// The same with one scale that is measured and written: scale = max |x| / 448. Zeros have scale 0.
//   scale: float32, one element
VK_EXPORT vk_status vk_cuda_dynamic_scaled_fp8_quant(const vk_tensor* result,
                                                     const vk_tensor* input, const vk_tensor* scale,
                                                     void* stream);

// result = float8(input / scale) with a measured scale for each row:
// scale = max(min(max |x|, scale_ub) / 448, 1 / (448 * 512))
//   scale: float32, as many elements as rows, contiguous; scale_ub: float32, one element, or null
VK_EXPORT vk_status vk_cuda_dynamic_per_token_scaled_fp8_quant(const vk_tensor* result,
                                                               const vk_tensor* input,
                                                               const vk_tensor* scale,
                                                               const vk_tensor* scale_ub,
                                                               void* stream);

// result = saturate(round(input * (1 / scale)) + azp)
//   result: int8; scale: float32, one element; azp: int32, one element, or null for symmetric
VK_EXPORT vk_status vk_cuda_static_scaled_int8_quant(const vk_tensor* result,
                                                     const vk_tensor* input, const vk_tensor* scale,
                                                     const vk_tensor* azp, void* stream);

// As above, with a scale (and a zero point) that each row is measured for, and written:
//   symmetric:  scale = max |x| / 127
//   asymmetric: scale = (max x - min x) / 255, azp = round(-128 - min x / scale)
//     where the range is so narrow against its distance from 0 that azp would pass 2^22, the row is
//     quantised symmetrically, with azp = 0
// A row of zeros has scale 0. A row with a NaN or an infinity has an unspecified result.
//   scale: float32, as many elements as rows, contiguous; azp: int32, likewise, or null
VK_EXPORT vk_status vk_cuda_dynamic_scaled_int8_quant(const vk_tensor* result,
                                                      const vk_tensor* input,
                                                      const vk_tensor* scale, const vk_tensor* azp,
                                                      void* stream);

// Each group of group_size neighbouring columns by a measured scale:
//   s = max(max |x|, eps) / largest; with scale_ue8m0 the next power of two, at least 1e-10
//   output_q = quantise(min(max(x / s, least), largest))
//   output_q: float8_e4m3fn | int8; output_s: float32 [..., hidden / group_size], of any strides,
//     its leading dimensions those of input, or [rows, hidden / group_size]
VK_EXPORT vk_status vk_cuda_per_token_group_quant(const char* op, const vk_tensor* input,
                                                  const vk_tensor* output_q,
                                                  const vk_tensor* output_s, int64_t group_size,
                                                  double eps, double least, double largest,
                                                  bool scale_ue8m0, void* stream);

// The same with scales as bytes, the exponents of powers of two (at least 1e-10), four groups in an
// int32, lowest first; groups that a row lacks have 0. The layout that DeepGEMM reads by TMA.
//   output_q: float8_e4m3fn | int8 [r, hidden] or input's shape, r >= rows: rows up to the next
//     multiple of 4, where there are such, are set to 0
//   output_s_packed: int32 [rows, ceil(hidden / group_size / 4)], strides 1 and rows rounded up to
//     a multiple of 4, where rows are padded with zeros too
VK_EXPORT vk_status vk_cuda_per_token_group_quant_packed(const char* op, const vk_tensor* input,
                                                         const vk_tensor* output_q,
                                                         const vk_tensor* output_s_packed,
                                                         int64_t group_size, double eps,
                                                         double least, double largest,
                                                         void* stream);

}  // extern "C"
#endif  // VLLM_KERNELS_CUDA_QUANT_QUANT_H_
