#ifndef VLLM_KERNELS_TESTS_PTX_MMA_CUH_
#define VLLM_KERNELS_TESTS_PTX_MMA_CUH_

#include "device.h"

namespace vk::cuda::ptx {

// Element `index` of two or four small floats.
template <class T>
float PartOf(uint32_t all, int index) {
  const uint32_t bits = all >> (8 * static_cast<int>(sizeof(T)) * index);
  T value;
  std::memcpy(static_cast<void*>(&value), &bits, sizeof(T));
  return static_cast<float>(value);
}

struct Fragment {
  uint32_t a[4], b[2];
};

template <class T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                  const float (&c)[4]) {
  Fragment all[32];
  emulation::Exchange(Fragment{{a[0], a[1], a[2], a[3]}, {b0, b1}}, all);
  const int group = emulation::Lane() / 4, t = emulation::Lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int half = i / 2, column = 2 * t + i % 2;
    double sum = c[i];
    for (int k = 0; k < 16; ++k) {
      const float x = PartOf<T>(all[4 * group + k % 8 / 2].a[half + 2 * (k / 8)], k & 1);
      sum += double{x} * PartOf<T>(all[4 * column + k % 8 / 2].b[k / 8], k & 1);
    }
    d[i] = static_cast<float>(sum);
  }
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_TESTS_PTX_MMA_CUH_
