// The kernels of W4A8: 4-bit weights, whose products get scales of tokens and channels.
#include "cuda/wna16/common/kernel_tables.h"
#include "cuda/wna16/small_m/kernel.cuh"
#include "cuda/wna16/small_m/plan.h"

namespace vk::cuda::wna16 {
namespace {

template <class S>
const void* Kernel() {
  return reinterpret_cast<const void*>(&SmallMKernel<ScaledBf16Arithmetic, WeightType::kU4B8, S>);
}

}  // namespace

KernelTable SmallMScaledKernels() {
#define VK_WNA16_KERNEL(tokens, tiles) Kernel<SmallMShape<tokens, tiles>>(),
  static const void* const kernels[] = {VK_WNA16_SMALL_M_SHAPES(VK_WNA16_KERNEL)};
#undef VK_WNA16_KERNEL
  return kernels;
}

}  // namespace vk::cuda::wna16
