#include "cpu/attention/attention.h"

#include <torch/csrc/stable/ops.h>

#include <cstring>
#include <string>

#include "torch/bind.h"

namespace vk::binding {
namespace {

// Only the C ABI's stamp is needed, because each call plans from its own lengths.
Tensor GetSchedulerMetadata(int64_t num_req, int64_t num_heads_q, int64_t num_heads_kv,
                            int64_t head_dim, const Tensor& seq_lens, ScalarType, const Tensor&,
                            bool, int64_t, std::string, bool, std::optional<Tensor>) {
  int32_t stamp[VK_ATTENTION_METADATA_LENGTH];
  Check(vk_cpu_attention_metadata(num_req, num_heads_q, num_heads_kv, head_dim, stamp));
  Tensor metadata =
      NewEmpty("get_scheduler_metadata", "metadata", seq_lens, {sizeof(stamp)}, ScalarType::Char);
  std::memcpy(metadata.mutable_data_ptr(), stamp, sizeof(stamp));
  return metadata;
}

void Attention(const vk_tensor* query, const vk_tensor* key_cache, const vk_tensor* value_cache,
               const vk_tensor* output, const vk_tensor* query_start_loc, const vk_tensor* seq_lens,
               double scale, bool causal, const vk_tensor* alibi_slopes,
               int64_t sliding_window_size, const vk_tensor* block_table, double softcap,
               const vk_tensor* /*scheduler_metadata*/, const vk_tensor* s_aux,
               const vk_tensor* dynamic_causal, double k_scale, double v_scale,
               const std::string& kv_cache_dtype) {
  const vk_attention_args args{query,
                               key_cache,
                               value_cache,
                               output,
                               query_start_loc,
                               seq_lens,
                               block_table,
                               alibi_slopes,
                               s_aux,
                               dynamic_causal,
                               scale,
                               softcap,
                               sliding_window_size,
                               causal,
                               k_scale,
                               v_scale,
                               kv_cache_dtype.c_str()};
  Check(vk_cpu_attention(&args));
}

// What no caller asks for: refused by name.
void Absent(const char* op, const char* name, bool given, const char* remedy) {
  if (given) Refuse(op, name, std::string(" is given, want ") + remedy);
}

void DecodeAttention(const vk_tensor* query, const vk_tensor* k_buffer, const vk_tensor* v_buffer,
                     const vk_tensor* output, const vk_tensor* key, const vk_tensor* value,
                     const vk_tensor* loc, const vk_tensor* /*attn_logits*/,
                     const vk_tensor* req_to_token, const vk_tensor* req_pool_indices,
                     const vk_tensor* seq_lens, double sm_scale, double logit_cap,
                     bool is_cross_attn, int64_t sliding_window_size, const vk_tensor* encoder_lens,
                     const vk_tensor* sinks) {
  constexpr const char* kOp = "decode_attention_cpu";
  constexpr const char* kWritten = "none: the buffers hold the new tokens' keys and values";
  Absent(kOp, "key", key != nullptr, kWritten);
  Absent(kOp, "value", value != nullptr, kWritten);
  Absent(kOp, "loc", loc != nullptr, kWritten);
  Absent(kOp, "is_cross_attn", is_cross_attn, "false");
  Absent(kOp, "encoder_lens", encoder_lens != nullptr, "none");
  const vk_row_attention_args args{query,    output,       k_buffer,
                                   v_buffer, req_to_token, req_pool_indices,
                                   seq_lens, sinks,        nullptr,
                                   nullptr,  nullptr,      nullptr,
                                   sm_scale, logit_cap,    sliding_window_size};
  Check(vk_cpu_decode_attention(&args));
}

void ExtendAttention(const vk_tensor* q_extend, const vk_tensor* k_extend,
                     const vk_tensor* v_extend, const vk_tensor* o_extend,
                     const vk_tensor* k_buffer, const vk_tensor* v_buffer,
                     const vk_tensor* req_to_token, const vk_tensor* req_pool_indices,
                     const vk_tensor* seq_lens, const vk_tensor* extend_seq_lens,
                     const vk_tensor* extend_start_loc, int64_t /*max_len_extend*/, double sm_scale,
                     double logit_cap, bool is_cross_attn, int64_t sliding_window_size,
                     const vk_tensor* encoder_lens, const vk_tensor* sinks,
                     const vk_tensor* tree_mask) {
  constexpr const char* kOp = "extend_attention_cpu";
  Absent(kOp, "is_cross_attn", is_cross_attn, "false");
  Absent(kOp, "encoder_lens", encoder_lens != nullptr, "none");
  Absent(kOp, "tree_mask", tree_mask != nullptr, "none");
  if (k_extend == nullptr || v_extend == nullptr) {
    Refuse(kOp, k_extend == nullptr ? "k_extend" : "v_extend", " is missing, want a tensor");
  }
  const vk_row_attention_args args{
      q_extend,         o_extend,         k_buffer, v_buffer,  req_to_token,
      req_pool_indices, seq_lens,         sinks,    k_extend,  v_extend,
      extend_seq_lens,  extend_start_loc, sm_scale, logit_cap, sliding_window_size};
  Check(vk_cpu_extend_attention(&args));
}

bool HasIsa(std::string isa) {
  int32_t has = 0;
  Check(vk_cpu_attention_has_isa(isa.c_str(), &has));
  return has != 0;
}

}  // namespace
}  // namespace vk::binding

VK_IMPL(CPU, get_scheduler_metadata, vk::binding::GetSchedulerMetadata);
VK_IMPL(CPU, cpu_attention_with_kv_cache, vk::binding::Attention);
VK_BIND(CPU, mla_decode_kvcache, vk_cpu_mla_decode);
VK_IMPL(CPU, decode_attention_cpu, vk::binding::DecodeAttention);
VK_IMPL(CPU, extend_attention_cpu, vk::binding::ExtendAttention);

// There is no tensor argument to choose a device.
VK_IMPL(CompositeExplicitAutograd, cpu_attn_has_isa, vk::binding::HasIsa);
