#include "cpu/attention/attention.h"

#include <torch/csrc/stable/ops.h>

#include <cstring>

#include "torch/bind.h"

namespace vk::binding {
namespace {

// Only the C ABI's stamp is needed, because each call plans from its own lengths.
Tensor GetSchedulerMetadata(int64_t num_req, int64_t num_heads_q, int64_t num_heads_kv,
                            int64_t head_dim, const Tensor& seq_lens, ScalarType, const Tensor&,
                            bool, int64_t, std::string, bool, std::optional<Tensor>) {
  int32_t stamp[VK_ATTENTION_METADATA_LENGTH];
  Check(vk_cpu_attention_metadata(num_req, num_heads_q, num_heads_kv, head_dim, stamp));
  Tensor metadata = torch::stable::new_empty(seq_lens, {sizeof(stamp)}, ScalarType::Char);
  std::memcpy(metadata.mutable_data_ptr(), stamp, sizeof(stamp));
  return metadata;
}

void Attention(const Tensor& query, const Tensor& key_cache, const Tensor& value_cache,
               const Tensor& output, const Tensor& query_start_loc, const Tensor& seq_lens,
               double scale, bool causal, std::optional<Tensor> alibi_slopes,
               int64_t sliding_window_size, const Tensor& block_table, double softcap,
               const Tensor&, std::optional<Tensor> s_aux, std::optional<Tensor> dynamic_causal,
               double, double, std::string kv_cache_dtype) {
  const char* op = "cpu_attention_with_kv_cache";
  const View q(op, "query", query), k(op, "key_cache", key_cache),
      v(op, "value_cache", value_cache), out(op, "output", output),
      starts(op, "query_start_loc", query_start_loc), lengths(op, "seq_lens", seq_lens),
      table(op, "block_table", block_table), slopes(op, "alibi_slopes", alibi_slopes),
      sinks(op, "s_aux", s_aux), dynamic(op, "dynamic_causal", dynamic_causal);
  const vk_attention_args args{q,
                               k,
                               v,
                               out,
                               starts,
                               lengths,
                               table,
                               slopes,
                               sinks,
                               dynamic,
                               scale,
                               softcap,
                               sliding_window_size,
                               causal,
                               kv_cache_dtype.c_str()};
  Check(vk_cpu_attention(&args));
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

// There is no tensor argument to choose a device.
VK_IMPL(CompositeExplicitAutograd, cpu_attn_has_isa, vk::binding::HasIsa);
