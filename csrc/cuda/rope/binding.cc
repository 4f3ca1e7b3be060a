#include "cuda/rope/rope.h"

#include "torch/bind.h"

namespace vk::binding {
namespace {

// How many heads a warp takes is the kernel's own choice, whatever the caller would force.
void FusedQkNormRope(const Tensor& qkv, int64_t num_heads_q, int64_t num_heads_k,
                     int64_t num_heads_v, int64_t head_dim, double eps, const Tensor& q_weight,
                     const Tensor& k_weight, const Tensor& cos_sin_cache, bool is_neox,
                     const Tensor& position_ids, int64_t /*forced_token_heads_per_warp*/) {
  const CudaScope scope("fused_qk_norm_rope", qkv);
  Check(vk_cuda_fused_qk_norm_rope(scope.View("qkv", qkv), num_heads_q, num_heads_k, num_heads_v,
                                   head_dim, eps, scope.View("q_weight", q_weight),
                                   scope.View("k_weight", k_weight),
                                   scope.View("cos_sin_cache", cos_sin_cache), is_neox,
                                   scope.View("position_ids", position_ids), scope.stream()));
}

}  // namespace
}  // namespace vk::binding

VK_BIND(CUDA, rotary_embedding, vk_cuda_rotary_embedding, query);
VK_IMPL(CUDA, fused_qk_norm_rope, vk::binding::FusedQkNormRope);
