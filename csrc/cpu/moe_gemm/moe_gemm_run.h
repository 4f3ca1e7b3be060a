// One call of a mixture of experts: tokens grouped by expert, threads, scratch memory.
#ifndef VLLM_KERNELS_CPU_MOE_GEMM_MOE_GEMM_RUN_H_
#define VLLM_KERNELS_CPU_MOE_GEMM_MOE_GEMM_RUN_H_

#include "cpu/moe_gemm/moe_gemm.h"
#include "cpu/packed/packed_weights.h"

namespace vk {

// Checked arguments of vk_cpu_fused_moe or vk_cpu_fused_experts.
struct MoeCall {
  const vk_tensor& output;
  const vk_tensor& input;
  PackedWeights w13, w2;
  const vk_tensor* w13_bias;
  const vk_tensor* w2_bias;
  const vk_tensor& topk_weights;
  const vk_tensor& topk_id;
  bool skip_weighted;
  MoeActivation act;
  MoeSwiglu swiglu = {};
};

// The expert that slot `slot` of token `token` goes to.
int64_t MoeExpert(const vk_tensor& topk_id, int64_t token, int64_t slot);

// Throws std::bad_alloc where scratch memory is missing.
void RunMoe(const MoeCall& call);

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_MOE_GEMM_MOE_GEMM_RUN_H_
