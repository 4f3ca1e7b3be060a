#include "cpu/moe_gemm/moe_gemm.h"

#include <cstring>

#include "core/check.h"
#include "cpu/moe_gemm/moe_checks.h"
#include "cpu/moe_gemm/moe_gemm_run.h"
#include "cpu/packed/packed_weights.h"

namespace {

using vk::Arg;

constexpr const char* kPrepack = "prepack_moe_weight";
constexpr const char* kFused = "cpu_fused_moe";

void CheckIsa(const char* op, const char* isa) {
  for (const char* known : {"amx", "vec", "neon"}) {
    if (isa != nullptr && std::strcmp(isa, known) == 0) return;
  }
  vk::Fail(VK_INVALID_ARGUMENT, "%s: isa is '%s', want amx, vec or neon", op,
           isa == nullptr ? "" : isa);
}

vk::MoeActivation FindActivation(const char* act) {
  constexpr const char* kNames[vk::kMoeActivations] = {"silu", "gelu", "gelu_tanh", "swigluoai"};
  for (int i = 0; i < vk::kMoeActivations; ++i) {
    if (act != nullptr && std::strcmp(act, kNames[i]) == 0) return vk::MoeActivation(i);
  }
  vk::Fail(VK_UNSUPPORTED, "%s: act is '%s', want silu, gelu, gelu_tanh or swigluoai", kFused,
           act == nullptr ? "" : act);
}

const vk_tensor* CheckBias(const char* name, const vk_tensor* bias, const Arg& input,
                           int64_t experts, int64_t columns) {
  if (bias == nullptr) return nullptr;
  const Arg arg(kFused, name, bias);
  arg.SameDtype(input).Dims(2).Size(0, experts).Size(1, columns).Contiguous();
  return bias;
}

}  // namespace

extern "C" vk_status vk_cpu_prepack_moe_weight(const vk_tensor* weight,
                                               const vk_tensor* packed_weight, const char* isa) {
  return vk::Guard([&] {
    const Arg from(kPrepack, "weight", weight), to(kPrepack, "packed_weight", packed_weight);
    from.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(3);
    to.SameDtype(from).SameShape(from).Contiguous();
    CheckIsa(kPrepack, isa);
    VK_CHECK(!vk::SharesMemory(*weight, *packed_weight),
             "%s: packed_weight shares memory with weight, want memory of its own", kPrepack);
    if (vk::NumElements(*weight) == 0) return;  // however many experts there are
    vk::PackedWeights(*packed_weight, vk::kPlain).Pack(*weight);
  });
}

extern "C" vk_status vk_cpu_fused_moe(const vk_tensor* output, const vk_tensor* input,
                                      const vk_tensor* w13, const vk_tensor* w2,
                                      const vk_tensor* w13_bias, const vk_tensor* w2_bias,
                                      const vk_tensor* topk_weights, const vk_tensor* topk_id,
                                      int32_t skip_weighted, const char* act, const char* isa) {
  return vk::Guard([&] {
    const Arg in(kFused, "input", input), out(kFused, "output", output);
    in.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(2).LastDimContiguous();
    out.SameDtype(in).SameShape(in).LastDimContiguous();
    const Arg up(kFused, "w13", w13), down(kFused, "w2", w2);
    up.SameDtype(in).Dims(3).Size(2, in.size(1)).Contiguous();
    down.SameDtype(in).Dims(3).Size(0, up.size(0)).Size(1, in.size(1)).Contiguous();
    VK_CHECK(up.size(1) == 2 * down.size(2),
             "%s: w13 has shape %s and w2 %s, want twice as many columns of w13 as w2 is deep",
             kFused, vk::ShapeString(*w13).c_str(), vk::ShapeString(*w2).c_str());
    vk::CheckMoeSlots(kFused, in, topk_weights, topk_id);
    VK_CHECK(!skip_weighted || topk_id->shape[1] == 1,
             "%s: skip_weighted with %lld experts a token, want one", kFused,
             vk::Print(topk_id->shape[1]));
    const vk::MoeActivation activation = FindActivation(act);
    CheckIsa(kFused, isa);
    vk::CheckMoeOutput(kFused, "output", *output, "input", *input);
    if (vk::NumElements(*output) == 0) return;  // however many tokens there are
    vk::CheckMoeRouting(kFused, *topk_id, up.size(0));
    vk::RunMoe({*output, *input, vk::PackedWeights(*w13, vk::kPlain),
                vk::PackedWeights(*w2, vk::kPlain),
                CheckBias("w13_bias", w13_bias, in, up.size(0), up.size(1)),
                CheckBias("w2_bias", w2_bias, in, up.size(0), in.size(1)), *topk_weights, *topk_id,
                skip_weighted != 0, activation});
  });
}
