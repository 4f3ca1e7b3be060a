#include "cpu/moe_gemm/moe_gemm.h"

#include <cstring>
#include <initializer_list>

#include "core/check.h"
#include "cpu/moe_gemm/moe_checks.h"
#include "cpu/moe_gemm/moe_gemm_run.h"
#include "cpu/packed/packed_weights.h"

namespace {

using vk::Arg;

constexpr const char* kPrepack = "prepack_moe_weight";
constexpr const char* kPrepackInt8 = "prepack_moe_weight_int8";

void CheckIsa(const char* op, const char* isa) {
  for (const char* known : {"amx", "vec", "neon", "vsx"}) {
    if (isa != nullptr && std::strcmp(isa, known) == 0) return;
  }
  vk::Fail(VK_INVALID_ARGUMENT, "%s: isa is '%s', want amx, vec, neon or vsx", op,
           isa == nullptr ? "" : isa);
}

vk::MoeActivation FindActivation(const char* op, const char* act) {
  constexpr const char* kNames[vk::kMoeActivations] = {"silu", "gelu", "gelu_tanh", "swigluoai"};
  for (int i = 0; i < vk::kMoeActivations; ++i) {
    if (act != nullptr && std::strcmp(act, kNames[i]) == 0) return vk::MoeActivation(i);
  }
  vk::Fail(VK_UNSUPPORTED, "%s: act is '%s', want silu, gelu, gelu_tanh or swigluoai", op,
           act == nullptr ? "" : act);
}

void Prepack(const char* op, std::initializer_list<vk_dtype> dtypes, const vk_tensor* weight,
             const vk_tensor* packed_weight, const char* isa) {
  const Arg from(op, "weight", weight), to(op, "packed_weight", packed_weight);
  from.Dtype(dtypes).Dims(3);
  to.SameDtype(from).SameShape(from).Contiguous();
  CheckIsa(op, isa);
  VK_CHECK(!vk::SharesMemory(*weight, *packed_weight),
           "%s: packed_weight shares memory with weight, want memory of its own", op);
  if (vk::NumElements(*weight) == 0) return;  // however many experts there are
  vk::PackedWeights(*packed_weight, vk::kPlain).Pack(*weight);
}

// What vk_cpu_fused_moe and vk_cpu_fused_moe_int8 take.
struct Experts {
  const vk_tensor *output, *input, *w13, *w2, *w13_scale, *w2_scale, *w13_bias, *w2_bias;
  const vk_tensor *topk_weights, *topk_id;
  bool skip_weighted, int8;
  const char *act, *isa;
};

void Fused(const char* op, const Experts& call) {
  const Arg in(op, "input", call.input), out(op, "output", call.output);
  in.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(2).LastDimContiguous();
  out.SameDtype(in).SameShape(in).LastDimContiguous();
  const Arg up(op, "w13", call.w13), down(op, "w2", call.w2);
  for (const Arg* weight : {&up, &down}) {
    if (call.int8) {
      weight->Dtype({VK_I8});
    } else {
      weight->SameDtype(in);
    }
  }
  up.Dims(3).Size(2, in.size(1)).Contiguous();
  down.Dims(3).Size(0, up.size(0)).Size(1, in.size(1)).Contiguous();
  VK_CHECK(up.size(1) == 2 * down.size(2),
           "%s: w13 has shape %s and w2 %s, want twice as many columns of w13 as w2 is deep", op,
           vk::ShapeString(*call.w13).c_str(), vk::ShapeString(*call.w2).c_str());
  vk::PackedScales up_scales, down_scales;
  if (call.int8) {
    up_scales = vk::CheckMoeRowScales(op, "w13_scale", call.w13_scale, up);
    down_scales = vk::CheckMoeRowScales(op, "w2_scale", call.w2_scale, down);
  }
  vk::CheckMoeSlots(op, in, call.topk_weights, call.topk_id);
  VK_CHECK(!call.skip_weighted || call.topk_id->shape[1] == 1,
           "%s: skip_weighted with %lld experts a token, want one", op,
           vk::Print(call.topk_id->shape[1]));
  const vk::MoeActivation activation = FindActivation(op, call.act);
  CheckIsa(op, call.isa);
  const vk::MoeBias dtypes = call.int8 ? vk::MoeBias::kOrFloat32 : vk::MoeBias::kInputDtype;
  vk::CheckMoeBias(op, "w13_bias", call.w13_bias, in, up.size(0), up.size(1), dtypes);
  vk::CheckMoeBias(op, "w2_bias", call.w2_bias, in, up.size(0), in.size(1), dtypes);
  vk::CheckMoeOutput(op, "output", *call.output, "input", *call.input);
  if (vk::NumElements(*call.output) == 0) return;  // however many tokens there are
  vk::CheckMoeRouting(op, *call.topk_id, up.size(0));
  const vk::PackedCoding coding = call.int8 ? vk::kCodedI8 : vk::kPlain;
  vk::RunMoe({*call.output, *call.input, vk::PackedWeights(*call.w13, coding, up_scales),
              vk::PackedWeights(*call.w2, coding, down_scales), call.w13_bias, call.w2_bias,
              *call.topk_weights, *call.topk_id, call.skip_weighted, activation});
}

}  // namespace

extern "C" vk_status vk_cpu_prepack_moe_weight(const vk_tensor* weight,
                                               const vk_tensor* packed_weight, const char* isa) {
  return vk::Guard(
      [&] { Prepack(kPrepack, {VK_F32, VK_BF16, VK_F16}, weight, packed_weight, isa); });
}

extern "C" vk_status vk_cpu_prepack_moe_weight_int8(const vk_tensor* weight,
                                                    const vk_tensor* packed_weight,
                                                    const char* isa) {
  return vk::Guard([&] { Prepack(kPrepackInt8, {VK_I8}, weight, packed_weight, isa); });
}

extern "C" vk_status vk_cpu_fused_moe(const vk_tensor* output, const vk_tensor* input,
                                      const vk_tensor* w13, const vk_tensor* w2,
                                      const vk_tensor* w13_bias, const vk_tensor* w2_bias,
                                      const vk_tensor* topk_weights, const vk_tensor* topk_id,
                                      int32_t skip_weighted, const char* act, const char* isa) {
  return vk::Guard([&] {
    Fused("cpu_fused_moe", {output, input, w13, w2, nullptr, nullptr, w13_bias, w2_bias,
                            topk_weights, topk_id, skip_weighted != 0, false, act, isa});
  });
}

extern "C" vk_status vk_cpu_fused_moe_int8(const vk_tensor* output, const vk_tensor* input,
                                           const vk_tensor* w13, const vk_tensor* w2,
                                           const vk_tensor* w13_scale, const vk_tensor* w2_scale,
                                           const vk_tensor* w13_bias, const vk_tensor* w2_bias,
                                           const vk_tensor* topk_weights, const vk_tensor* topk_id,
                                           int32_t skip_weighted, const char* act,
                                           const char* isa) {
  return vk::Guard([&] {
    Fused("cpu_fused_moe_int8", {output, input, w13, w2, w13_scale, w2_scale, w13_bias, w2_bias,
                                 topk_weights, topk_id, skip_weighted != 0, true, act, isa});
  });
}
