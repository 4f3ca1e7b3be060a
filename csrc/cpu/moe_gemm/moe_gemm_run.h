// One call of a mixture of experts: tokens grouped by expert, threads, scratch memory.
#ifndef VLLM_KERNELS_CPU_MOE_GEMM_MOE_GEMM_RUN_H_
#define VLLM_KERNELS_CPU_MOE_GEMM_MOE_GEMM_RUN_H_

#include "cpu/moe_gemm/moe_gemm.h"
#include "cpu/moe_gemm/moe_gemm_weights.h"

namespace vk {

// Checked arguments of vk_cpu_fused_moe.
struct MoeCall {
  const vk_tensor& output;
  const vk_tensor& input;
  MoeWeights w13, w2;
  const void* w13_bias;
  const void* w2_bias;
  const vk_tensor& topk_weights;
  const vk_tensor& topk_id;
  bool skip_weighted;
  MoeActivation act;
};

// The expert that slot `slot` of token `token` goes to.
int64_t MoeExpert(const vk_tensor& topk_id, int64_t token, int64_t slot);

// Throws std::bad_alloc where scratch memory is missing.
void RunMoe(const MoeCall& call);

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_MOE_GEMM_MOE_GEMM_RUN_H_
