#include "cuda/qkv/qkv.h"

#include "torch/bind.h"

namespace vk::binding {
namespace {

Tensor QuantInsert(const Tensor& q_in, const Tensor& kv, const Tensor& k_cache,
                   const Tensor& slot_mapping, const Tensor& position_ids,
                   const Tensor& cos_sin_cache, int64_t q_head_padded, double eps,
                   int64_t cache_block_size, bool apply_q_norm, bool kv_mxfp8, bool apply_q_rope,
                   bool is_q_interleaved) {
  const char* op = "fused_deepseek_v4_qnorm_rope_kv_rope_quant_insert";
  const CudaScope scope(op, q_in);
  CheckDims(op, "q_in", q_in, 3, "[tokens, heads, 512]");
  const int64_t sizes[3] = {q_in.size(0), q_head_padded, q_in.size(2)};
  const Tensor q_out = scope.NewEmpty("q_out", q_in, {sizes, 3});
  Check(vk_cuda_fused_deepseek_v4_qnorm_rope_kv_rope_quant_insert(
      op, scope.View("q_in", q_in), scope.View("kv", kv), scope.View("q_out", q_out),
      scope.View("k_cache", k_cache), scope.View("slot_mapping", slot_mapping),
      scope.View("position_ids", position_ids), scope.View("cos_sin_cache", cos_sin_cache),
      q_head_padded, eps, cache_block_size, apply_q_norm, kv_mxfp8, apply_q_rope, is_q_interleaved,
      scope.stream()));
  return q_out;
}

void QuantInsertOut(const Tensor& q_in, const Tensor& kv, const Tensor& q_out,
                    const Tensor& k_cache, const Tensor& slot_mapping, const Tensor& position_ids,
                    const Tensor& cos_sin_cache, int64_t q_head_padded, double eps,
                    int64_t cache_block_size) {
  const char* op = "fused_deepseek_v4_qnorm_rope_kv_rope_quant_insert_out";
  const CudaScope scope(op, q_in);
  Check(vk_cuda_fused_deepseek_v4_qnorm_rope_kv_rope_quant_insert(
      op, scope.View("q_in", q_in), scope.View("kv", kv), scope.View("q_out", q_out),
      scope.View("k_cache", k_cache), scope.View("slot_mapping", slot_mapping),
      scope.View("position_ids", position_ids), scope.View("cos_sin_cache", cos_sin_cache),
      q_head_padded, eps, cache_block_size, true, false, true, false, scope.stream()));
}

}  // namespace
}  // namespace vk::binding

VK_BIND(CUDA, fused_deepseek_v4_qnorm_rope_kv_rope_full_cache_bf16_insert,
        vk_cuda_fused_deepseek_v4_qnorm_rope_kv_rope_full_cache_bf16_insert);
VK_BIND(CUDA, fused_deepseek_v4_qnorm_rope_kv_rope_full_cache_fp8_insert,
        vk_cuda_fused_deepseek_v4_qnorm_rope_kv_rope_full_cache_fp8_insert);
VK_IMPL(CUDA, fused_deepseek_v4_qnorm_rope_kv_rope_quant_insert, vk::binding::QuantInsert);
VK_IMPL(CUDA, fused_deepseek_v4_qnorm_rope_kv_rope_quant_insert_out, vk::binding::QuantInsertOut);
VK_BIND(CUDA, fused_deepseek_v4_kv_rope_insert, vk_cuda_fused_deepseek_v4_kv_rope_insert);
VK_BIND(CUDA, fused_minimax_m3_qknorm_rope_kv_insert,
        vk_cuda_fused_minimax_m3_qknorm_rope_kv_insert);
VK_BIND(CUDA, fused_muse_spark_qknorm_rope_kv_insert,
        vk_cuda_fused_muse_spark_qknorm_rope_kv_insert);
VK_BIND(CUDA, fused_qknorm_rope_cache, vk_cuda_fused_qknorm_rope_cache);
VK_BIND(CUDA, fused_kimi_k3_mla_decode_q_concat_kv_cache_insert,
        vk_cuda_fused_kimi_k3_mla_decode_q_concat_kv_cache_insert);
VK_BIND(CUDA, fused_kimi_k3_mla_decode_q_concat_ds_mla_insert,
        vk_cuda_fused_kimi_k3_mla_decode_q_concat_ds_mla_insert);
VK_BIND(CUDA, fused_kimi_k3_mla_decode_q_concat_kv_cache_fp8_insert,
        vk_cuda_fused_kimi_k3_mla_decode_q_concat_kv_cache_fp8_insert);
VK_BIND(CUDA, fused_kimi_k3_mla_key_concat_kv_cache_insert,
        vk_cuda_fused_kimi_k3_mla_key_concat_kv_cache_insert);
VK_BIND(CUDA, fused_kimi_k3_mla_key_concat_ds_mla_insert,
        vk_cuda_fused_kimi_k3_mla_key_concat_ds_mla_insert);
VK_BIND(CUDA, fused_kimi_k3_mla_qkv_quant_kv_cache_fp8_insert,
        vk_cuda_fused_kimi_k3_mla_qkv_quant_kv_cache_fp8_insert);
VK_BIND(CUDA, fused_kimi_k3_mla_kv_concat, vk_cuda_fused_kimi_k3_mla_kv_concat);
VK_BIND(CUDA, fused_kimi_k3_mla_kv_concat_quant_fp8, vk_cuda_fused_kimi_k3_mla_kv_concat_quant_fp8);
