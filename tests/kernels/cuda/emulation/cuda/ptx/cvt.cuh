#ifndef VLLM_KERNELS_TESTS_PTX_CVT_CUH_
#define VLLM_KERNELS_TESTS_PTX_CVT_CUH_

#include "device.h"

namespace vk::cuda::ptx {

inline int32_t cvt_rni_sat_s8_f32(float x) {
  return static_cast<int32_t>(std::nearbyint(std::clamp(x, -128.0f, 127.0f)));
}
inline uint32_t cvt_rn_f16x2_e4m3x2(uint16_t pair) {
  const __half2_raw halves = __nv_cvt_fp8x2_to_halfraw2(pair, __NV_E4M3);
  return halves.x | static_cast<uint32_t>(halves.y) << 16;
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_TESTS_PTX_CVT_CUH_
