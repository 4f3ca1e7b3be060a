// Which kernel multiplies with scales of blocks.
#include "cuda/moe_gemm/blocks.h"

namespace vk::cuda::moe_gemm {

void RunBlocks(const char* op, const BlocksCall& call, const BlocksPlan& plan,
               cudaStream_t stream) {
  if (plan.tokens == 16) return LaunchTurned16x128(op, call, stream);
  if (plan.tokens == 64 && plan.weights == 128) return LaunchTurned64x128(op, call, stream);
  if (plan.tokens == 64) return LaunchTurned64x256(op, call, stream);
  if (plan.weights == 128) return LaunchRows128x128(op, call, stream);
  if (plan.weights == 192) return LaunchRows128x192(op, call, stream);
  LaunchRows128x256(op, call, stream);
}

}  // namespace vk::cuda::moe_gemm
