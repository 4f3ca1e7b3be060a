#include "cuda/norm/persistent.cuh"

namespace vk::cuda::norm {

void LaunchPerGroup(const Problem& problem, const Launch& launch) {
  if (launch.result_dtype == VK_I8) return LaunchMeasured<Kind::kPerGroup, ToInt8>(problem, launch);
  LaunchMeasured<Kind::kPerGroup, ToE4M3>(problem, launch);
}

}  // namespace vk::cuda::norm
