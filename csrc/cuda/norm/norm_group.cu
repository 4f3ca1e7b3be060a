#include "cuda/norm/kernel.cuh"

namespace vk::cuda::norm {

void LaunchPerGroup(const Problem& problem, const Launch& launch) {
  if (launch.result_dtype == VK_I8) return LaunchKind<Kind::kPerGroup, ToInt8>(problem, launch);
  LaunchKind<Kind::kPerGroup, ToE4M3>(problem, launch);
}

}  // namespace vk::cuda::norm
