#include "cuda/moe_routing/sizes.cuh"

namespace vk::cuda::moe_routing {
namespace {

__global__ void SizesKernel(const __grid_constant__ Experts experts) {
  const int expert = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (expert >= experts.experts) return;
  if (experts.counts != nullptr) {
    experts.offsets[expert] = expert * experts.padded_rows;
    WriteSizes(experts.sizes, expert, experts.counts[expert]);
  } else {
    const int64_t rows = experts.first_rows[expert + 1] - experts.first_rows[expert];
    WriteSizes(experts.sizes, expert, static_cast<int32_t>(rows));
  }
}

}  // namespace

void LaunchSizes(const char* op, const Experts& experts, cudaStream_t stream) {
  SizesKernel<<<GridX(op, CeilDiv(experts.experts, 128)), 128, 0, stream>>>(experts);
  CheckLaunch(op);
}

}  // namespace vk::cuda::moe_routing
