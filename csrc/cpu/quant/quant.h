// Quantisation of activations to int8, symmetric and asymmetric, for W8A8 matrix products (Jacob et
// al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
// Inference", 2018). x is represented as scale * (q - azp).
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
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_QUANT_QUANT_H_
