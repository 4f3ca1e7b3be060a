// Quantisation to int8, symmetric and asymmetric, for W8A8 matrix products (Jacob et al.,
// "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
// 2018): x is represented as scale * (q - azp). And to float8_e4m3fn (Micikevicius et al., "FP8
// Formats for Deep Learning", 2022), which saturates and keeps a NaN.
#ifndef VLLM_KERNELS_CPU_QUANT_QUANT_H_
#define VLLM_KERNELS_CPU_QUANT_QUANT_H_

#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "core/abi.h"

extern "C" {

// result = saturate(round(input * (1 / scale)) + azp), ties to even; a NaN gives 0.
//   input: [..., hidden], float32 | bfloat16 | float16, last dimension contiguous
//   result: int8, input's shape, last dimension contiguous
//   scale: float32, one element
//   azp: int32, one element, or null for symmetric quantisation
VK_EXPORT vk_status vk_cpu_static_scaled_int8_quant(const vk_tensor* result, const vk_tensor* input,
                                                    const vk_tensor* scale, const vk_tensor* azp);

// As above, with a scale (and a zero point) that each token's row is measured for, and written:
//   symmetric:  scale = max |x| / 127
//   asymmetric: scale = (max x - min x) / 255, azp = round(-128 - min x / scale)
//     where the range is so narrow against its distance from 0 that azp would pass 2^22, the row is
//     quantised symmetrically, with azp = 0
// A row of zeros has scale 0. A row with a NaN or an infinity has an unspecified result.
//   scale: float32, as many elements as input has rows ([tokens, 1]), contiguous
//   azp: int32, likewise, or null for symmetric quantisation
VK_EXPORT vk_status vk_cpu_dynamic_scaled_int8_quant(const vk_tensor* result,
                                                     const vk_tensor* input, const vk_tensor* scale,
                                                     const vk_tensor* azp);

// result = float8(input * (1 / scale)), element (i, j) by scale (i / group_m, j / group_n), where
// rows i are what the leading dimensions count; 1 / 0 counts as 0.
//   result: float8_e4m3fn, input's shape, last dimension contiguous
//   scale: float32: one element; or [rows / group_m, hidden / group_n]; or 1-D with one of these
//     two 1, which needs group_shape
//   group_shape: {group_m, group_n}, -1 for all rows or columns; null where the shape tells
VK_EXPORT vk_status vk_cpu_static_scaled_fp8_quant(const vk_tensor* result, const vk_tensor* input,
                                                   const vk_tensor* scale,
                                                   const int64_t* group_shape);

// The same with one scale that is measured and written: scale = max |x| / 448. Zeros have scale 0;
// with a NaN the result is unspecified.
//   scale: float32, one element
VK_EXPORT vk_status vk_cpu_dynamic_scaled_fp8_quant(const vk_tensor* result, const vk_tensor* input,
                                                    const vk_tensor* scale);

// result = float8(input / scale) with a measured scale for each row:
// scale = max(min(max |x|, scale_ub) / 448, 1 / (448 * 512))
// A row with a NaN has an unspecified result.
//   scale: float32, as many elements as rows, contiguous; scale_ub: float32, one element, or null
VK_EXPORT vk_status vk_cpu_dynamic_per_token_scaled_fp8_quant(const vk_tensor* result,
                                                              const vk_tensor* input,
                                                              const vk_tensor* scale,
                                                              const vk_tensor* scale_ub);

}  // extern "C"

namespace vk {

// The scale of a row that is quantised symmetrically.
inline float Int8Scale(float abs_max) { return abs_max / 127.0f; }
// The bound keeps the inverse finite where the scale is 0 or subnormal.
inline float InverseScale(float scale) { return 1.0f / std::fmax(scale, FLT_MIN); }

// One row; the index of each array is vk_dtype of the input (float32, bfloat16, float16).
struct QuantTable {
  struct Range {
    float min, max;
  };
  // q = saturate(round(x * inverse_scale) + azp)
  void (*quantize[3])(int8_t* result, const void* input, size_t width, float inverse_scale,
                      float azp);
  float (*abs_max[3])(const void* input, size_t width);
  Range (*range[3])(const void* input, size_t width);
  // q = float8(x * factors[j]), or factors[0] for all columns
  void (*scale_fp8[3])(uint8_t* result, const void* input, size_t width, const float* factors,
                       bool by_column);
  // q = float8(x / scale)
  void (*divide_fp8[3])(uint8_t* result, const void* input, size_t width, float scale);
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_QUANT_QUANT_H_
