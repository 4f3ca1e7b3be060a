#ifndef VLLM_KERNELS_TESTS_PTX_ARITHMETIC_CUH_
#define VLLM_KERNELS_TESTS_PTX_ARITHMETIC_CUH_

#include "device.h"

namespace vk::cuda::ptx {

inline float ex2_approx_ftz(float x) { return std::exp2(x); }
inline float rcp_approx_ftz(float x) { return 1.0f / x; }

template <int kTable, uint32_t kB, uint32_t kC>
uint32_t lop3(uint32_t a) {
  uint32_t out = 0;
  for (int i = 0; i < 8; ++i) {
    const uint32_t minterm = (i & 4 ? a : ~a) & (i & 2 ? kB : ~kB) & (i & 1 ? kC : ~kC);
    if (kTable >> i & 1) out |= minterm;
  }
  return out;
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_TESTS_PTX_ARITHMETIC_CUH_
