#include "cuda/norm/kernel.cuh"

namespace vk::cuda::norm {

void LaunchStatic(const Problem& problem, const Launch& launch) {
  LaunchKind<Kind::kStatic, ToE4M3>(problem, launch);
}

}  // namespace vk::cuda::norm
