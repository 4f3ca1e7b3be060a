#ifndef VLLM_KERNELS_TESTS_PTX_WGMMA_CUH_
#define VLLM_KERNELS_TESTS_PTX_WGMMA_CUH_

#include "cuda/ptx/mma.cuh"
#include "device.h"

namespace vk::cuda::ptx {

enum class Major { kK, kMn };

// Products are computed when they are waited for.
inline void wgmma_fence() {}
inline void wgmma_commit_group() { emulation::MyFiber().products.Commit(); }
template <int kPending>
void wgmma_wait_group() {
  emulation::MyFiber().products.Wait(kPending);
}
template <int kCount>
void warpgroup_fence_operand(float (&)[kCount]) {}

// Element (`row`, k) of the matrix of a descriptor.
template <class T, Major kMajor>
float ElementAt(uint64_t descriptor, int row, int k) {
  const auto field = [&](int shift) {
    return static_cast<uint32_t>(descriptor >> shift & 0x3fff) << 4;
  };
  if (descriptor >> 62 != 1 || field(32) != 1024) emulation::Fail("descriptor of a matrix");
  constexpr int kItem = sizeof(T);
  const int offset = kMajor == Major::kK
                         ? row * 128 + k * kItem
                         : row / 64 * static_cast<int>(field(16)) + k * 128 + row % 64 * kItem;
  T value;
  std::memcpy(static_cast<void*>(&value),
              emulation::Swizzled(field(0) + static_cast<uint32_t>(offset), kItem), kItem);
  return static_cast<float>(value);
}

// d[4 i + 2 half + e] is row 16 warp + lane / 4 + 8 half, column 8 i + 2 (lane % 4) + e.
template <int kDepth, int kCount, class A, class B>
void MultiplyLater(float (&d)[kCount], int scale_d, const A& a, const B& b) {
  float* target = d;
  const int lane = emulation::Lane();
  emulation::MyFiber().products.open.push_back([=] {
    for (int i = 0; i < kCount; ++i) {
      const int half = i / 2 % 2, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      float total = scale_d != 0 ? target[i] : 0.0f;
      for (int k = 0; k < kDepth; ++k) total += a(half, k) * b(column, k);
      target[i] = total;
    }
  });
}

template <class T, int kCount>
void wgmma_ss(float (&d)[kCount], uint64_t desc_a, uint64_t desc_b, int scale_d) {
  const int row = emulation::current / 32 % 4 * 16 + emulation::Lane() / 4;
  MultiplyLater<32 / sizeof(T)>(
      d, scale_d,
      [=](int half, int k) { return ElementAt<T, Major::kK>(desc_a, row + 8 * half, k); },
      [=](int column, int k) { return ElementAt<T, Major::kK>(desc_b, column, k); });
}

template <class T, Major kMajorB, int kCount>
void wgmma_rs(float (&d)[kCount], const uint32_t (&a)[4], uint64_t desc_b, int scale_d) {
  Fragment all[32];
  emulation::Exchange(Fragment{{a[0], a[1], a[2], a[3]}, {}}, all);
  const std::vector<Fragment> fragments(all, all + 32);
  const int first = emulation::Lane() / 4 * 4;
  // A register has kItems elements of a row, and eight of them are in two threads or four.
  constexpr int kItems = 4 / sizeof(T);
  MultiplyLater<32 / sizeof(T)>(
      d, scale_d,
      [=](int half, int k) {
        const uint32_t bits =
            fragments[first + k % (4 * kItems) / kItems].a[half + 2 * (k / (4 * kItems))];
        return PartOf<T>(bits, k % kItems);
      },
      [=](int column, int k) { return ElementAt<T, kMajorB>(desc_b, column, k); });
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_TESTS_PTX_WGMMA_CUH_
