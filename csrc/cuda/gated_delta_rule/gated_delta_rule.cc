#include "cuda/gated_delta_rule/gated_delta_rule.h"

#include <string_view>

#include "core/check.h"
#include "cuda/common/rows.h"
#include "cuda/gated_delta_rule/launch.h"

namespace {

using vk::Arg;
using vk::Print;
using namespace vk::cuda;
using namespace vk::cuda::gated_delta_rule;

constexpr char kOp[] = "fused_gdn_decode_post_conv_mtp";

// Of each head, or of each value.
Numbers Vector(const char* name, const vk_tensor* tensor, int64_t count) {
  Arg(kOp, name, tensor).Dtype({VK_F32, VK_BF16, VK_F16}).Contiguous();
  VK_CHECK(vk::NumElements(*tensor) == count, "%s: %s has shape %s, want %lld elements", kOp, name,
           vk::ShapeString(*tensor).c_str(), Print(count));
  return {tensor->data, tensor->dtype, 0};
}

Numbers Matrix(const char* name, const vk_tensor* tensor, int64_t rows, int64_t columns) {
  const Arg arg(kOp, name, tensor);
  arg.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(2).Size(0, rows).Size(1, columns).LastDimContiguous();
  return {tensor->data, tensor->dtype, arg.stride(0)};
}

}  // namespace

extern "C" vk_status vk_cuda_fused_gdn_decode_post_conv_mtp(
    const vk_tensor* mixed_qkv, const vk_tensor* a, const vk_tensor* b, const vk_tensor* A_log,
    const vk_tensor* dt_bias, const vk_tensor* state_indices, const vk_tensor* cu_seqlens,
    const vk_tensor* num_accepted_tokens, const vk_tensor* state, const vk_tensor* output_gate,
    const vk_tensor* norm_weight, const vk_tensor* out, double scale, double norm_eps,
    const char* output_gate_activation, void* stream) {
  return vk::Guard([&] {
    const Arg qkv(kOp, "mixed_qkv", mixed_qkv), states(kOp, "state", state);
    const Arg gate(kOp, "output_gate", output_gate), result(kOp, "out", out);
    qkv.Dtype({VK_BF16, VK_F16}).Dims(2).LastDimContiguous();
    CheckRowsAligned(kOp, qkv, 8);
    const int64_t tokens = qkv.size(0);
    states.Dtype({VK_F32, VK_BF16}).Dims(4).Size(2, kHead).Size(3, kHead).LastDimContiguous();
    const int64_t heads = states.size(1), rest = qkv.size(1) - heads * kHead;
    const int64_t key_heads = rest / (2 * kHead);
    VK_CHECK(heads > 0 && key_heads > 0 && rest % (2 * kHead) == 0 && heads % key_heads == 0,
             "%s: mixed_qkv has %lld columns and state %lld heads, want 128 (2 H + HV) columns, HV "
             "heads, a multiple of H",
             kOp, Print(qkv.size(1)), Print(heads));
    VK_CHECK(
        states.stride(1) == kHead * kHead && states.stride(2) == kHead && RowsAligned(*state, 16),
        "%s: state's heads do not lie one behind the other, aligned to 16 bytes", kOp);
    result.SameDtype(qkv).Dims(3).Size(0, tokens).Size(1, heads).Size(2, kHead).Contiguous();
    gate.SameDtype(qkv).Dims(3).Size(0, tokens).Size(1, heads).Size(2, kHead).LastDimContiguous();
    const Arg starts(kOp, "cu_seqlens", cu_seqlens), indices(kOp, "state_indices", state_indices);
    starts.Dtype({VK_I32}).Dims(1).Contiguous();
    const int64_t requests = starts.size(0) - 1;
    VK_CHECK(requests >= 0 && requests <= 65535,
             "%s: cu_seqlens has %lld elements, want 1 to 65536", kOp, Print(starts.size(0)));
    indices.Dtype({VK_I32}).Dims(2).Size(0, requests).LastDimContiguous();
    Arg(kOp, "num_accepted_tokens", num_accepted_tokens)
        .Dtype({VK_I32})
        .Dims(1)
        .Size(0, requests)
        .Contiguous();
    const std::string_view activation = output_gate_activation;
    VK_CHECK(activation == "silu" || activation == "sigmoid",
             "%s: output_gate_activation is \"%s\", want silu or sigmoid", kOp,
             output_gate_activation);

    Drafts drafts = {};
    drafts.qkv = mixed_qkv->data;
    drafts.a = Matrix("a", a, tokens, heads);
    drafts.b = Matrix("b", b, tokens, heads);
    drafts.a_log = Vector("A_log", A_log, heads);
    drafts.dt_bias = Vector("dt_bias", dt_bias, heads);
    drafts.norm_weight = Vector("norm_weight", norm_weight, kHead);
    drafts.gate = output_gate->data;
    drafts.out = out->data;
    drafts.state = state->data;
    drafts.indices = static_cast<const int32_t*>(state_indices->data);
    drafts.starts = static_cast<const int32_t*>(cu_seqlens->data);
    drafts.accepted = static_cast<const int32_t*>(num_accepted_tokens->data);
    drafts.qkv_stride = qkv.stride(0);
    drafts.gate_token = gate.stride(0);
    drafts.gate_head = gate.stride(1);
    drafts.index_stride = indices.stride(0);
    drafts.state_stride = states.stride(0);
    drafts.slots = states.size(0);
    drafts.requests = static_cast<int32_t>(requests);
    drafts.columns = static_cast<int32_t>(indices.size(1));
    drafts.key_heads = static_cast<int32_t>(key_heads);
    drafts.heads = static_cast<int32_t>(heads);
    drafts.scale = static_cast<float>(scale);
    drafts.epsilon = static_cast<float>(norm_eps);
    drafts.sigmoid = activation == "sigmoid";
    if (tokens == 0 || requests == 0) return;
    LaunchDrafts(kOp, drafts, mixed_qkv->dtype, state->dtype, AsStream(stream));
  });
}
