// Experts whose weights have 16, 8 or 4 bits, packed by vk_cpu_convert_weight_packed or
// vk_cpu_convert_int4.
#include "core/check.h"
#include "cpu/moe_gemm/moe_checks.h"
#include "cpu/moe_gemm/moe_gemm.h"
#include "cpu/moe_gemm/moe_gemm_run.h"
#include "cpu/packed/packed_int4.h"

namespace {

using vk::Arg;
using vk::PackedCoding;
using vk::PackedScales;
using vk::PackedWeights;

constexpr const char* kOp = "fused_experts_cpu";
constexpr int64_t kMxfp4Group = 32, kMxfp4Columns = 32;

// The engine's numbers of how weights are stored, and of activations.
enum Method { kUnquantised = 0, kInt8 = 1, kFp8 = 2, kInt4 = 3, kMxfp4 = 4 };
constexpr vk::MoeActivation kActivations[] = {vk::kMoeSilu, vk::kMoeSwigluOai, vk::kMoeGelu,
                                              vk::kMoeGeluTanh};

struct Stored {
  vk_dtype dtype;
  PackedCoding coding;
  int64_t values;  // in a stored one
};

Stored FindStored(int64_t method, const Arg& input) {
  switch (method) {
    case kUnquantised:
      return {static_cast<vk_dtype>(input.tensor().dtype), vk::kPlain, 1};
    case kInt8:
      return {VK_I8, vk::kCodedI8, 1};
    case kFp8:
      return {VK_F8E4M3, vk::kCodedE4m3, 1};
    case kMxfp4:
      return {VK_U8, vk::kCodedE2m1, 2};
    default:
      vk::Fail(VK_UNSUPPORTED,
               "%s: moe_comp_method is %lld, want 0 (16 bits), 1 (INT8), 2 (FP8), 3 (INT4) or 4 "
               "(MXFP4)",
               kOp, vk::Print(method));
  }
}

// The scales of one of the two matrices [experts, columns, depth].
PackedScales FindScales(const char* name, const vk_tensor* scale, int64_t method, int64_t experts,
                        int64_t columns, int64_t depth, const int64_t* block) {
  if (method == kUnquantised) {
    VK_CHECK(scale == nullptr, "%s: %s is given for weights of 16 bits, want None", kOp, name);
    return {};
  }
  const Arg given(kOp, name, scale);
  PackedScales scales{scale->data};
  if (method == kFp8) {
    VK_CHECK(block != nullptr && block[0] > 0 && block[1] > 0 &&
                 (block[1] % vk::kPackedGroupMultiple == 0 || block[1] >= depth),
             "%s: block_size does not fit float8 weights, want [n, k] above 0, and a k that is a "
             "multiple of %zu or all of K",
             kOp, vk::kPackedGroupMultiple);
    given.Dtype({VK_F32}).Dims(3).Size(0, experts);
    given.Size(1, columns / block[0] + (columns % block[0] != 0));
    given.Size(2, depth / block[1] + (depth % block[1] != 0));
    scales.block_columns = block[0];
    scales.group_size = block[1];
    scales.expert_stride = scale->stride[0];
    scales.block_stride = scale->stride[1];
    scales.group_stride = scale->stride[2];
    return scales;
  }
  VK_CHECK(columns % kMxfp4Columns == 0 && depth % kMxfp4Group == 0,
           "%s: the weights of %s have %lld columns and are %lld deep, want multiples of 32", kOp,
           name, vk::Print(columns), vk::Print(depth));
  const int64_t groups = depth / kMxfp4Group;
  given.Dtype({VK_U8}).Dims(3).Size(0, experts).Size(1, columns).Size(2, groups).Contiguous();
  scales.dtype = VK_U8;
  scales.group_size = kMxfp4Group;
  scales.block_columns = kMxfp4Columns;
  scales.expert_stride = columns * groups;
  scales.block_stride = kMxfp4Columns * groups;
  scales.column_stride = 1;
  scales.group_stride = kMxfp4Columns;
  return scales;
}

// One of the two matrices as a caller passes it, and how the schema calls that.
struct Names {
  const char *weight, *scale, *zero;
};
struct Given {
  const vk_tensor *weight, *scale, *zero;
};

PackedWeights FindWeights(const Names& names, const Given& given, int64_t method, const Arg& input,
                          const int64_t* block) {
  if (method == kInt4) {
    return PackedWeights(vk::FindInt4(kOp, {names.weight, names.zero, names.scale}, given.weight,
                                      given.zero, given.scale, true));
  }
  const Stored stored = FindStored(method, input);
  VK_CHECK(given.zero == nullptr, "%s: %s is given for weights without zero points, want None", kOp,
           names.zero);
  const Arg weight(kOp, names.weight, given.weight);
  weight.Dtype({stored.dtype}).Dims(3).Contiguous();
  if (method == kInt8) {
    return PackedWeights(*given.weight, stored.coding,
                         vk::CheckMoeRowScales(kOp, names.scale, given.scale, weight));
  }
  const int64_t depth = weight.size(2) * stored.values;
  return PackedWeights(
      *given.weight, stored.coding,
      FindScales(names.scale, given.scale, method, weight.size(0), weight.size(1), depth, block));
}

// That the two matrices fit each other and the input.
void CheckSizes(const Arg& input, const vk_tensor& w1, const vk_tensor& w2, const PackedWeights& up,
                const PackedWeights& down) {
  const auto hidden = static_cast<size_t>(input.size(1));
  VK_CHECK(up.depth() == hidden && down.columns() == hidden && up.experts() == down.experts(),
           "%s: w1 has shape %s and w2 %s, want as many experts, and hidden_states' %zu columns as "
           "depth of w1 and as columns of w2",
           kOp, vk::ShapeString(w1).c_str(), vk::ShapeString(w2).c_str(), hidden);
  VK_CHECK(up.columns() == 2 * down.depth(),
           "%s: w1 has shape %s and w2 %s, want twice as many columns of w1 as w2 is deep", kOp,
           vk::ShapeString(w1).c_str(), vk::ShapeString(w2).c_str());
}

void CheckBias(const char* name, const vk_tensor* bias, const Arg& input,
               const PackedWeights& weights) {
  vk::CheckMoeBias(kOp, name, bias, input, static_cast<int64_t>(weights.experts()),
                   static_cast<int64_t>(weights.columns()), vk::MoeBias::kOrFloat32);
}

}  // namespace

extern "C" vk_status vk_cpu_fused_experts(
    const vk_tensor* out, const vk_tensor* hidden_states, const vk_tensor* w1, const vk_tensor* w2,
    const vk_tensor* topk_weights, const vk_tensor* topk_ids, int64_t method,
    const vk_tensor* w1_scale, const vk_tensor* w2_scale, const vk_tensor* w1_zero,
    const vk_tensor* w2_zero, int64_t block_n, int64_t block_k, const vk_tensor* w1_bias,
    const vk_tensor* w2_bias, int64_t act_method, double alpha, double limit) {
  return vk::Guard([&] {
    const Arg in(kOp, "hidden_states", hidden_states), result(kOp, "out", out);
    in.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(2).LastDimContiguous();
    result.SameDtype(in).SameShape(in).LastDimContiguous();
    const int64_t block[] = {block_n, block_k};
    const PackedWeights up =
        FindWeights({"w1", "w1_scale", "w1_zero"}, {w1, w1_scale, w1_zero}, method, in, block);
    const PackedWeights down =
        FindWeights({"w2", "w2_scale", "w2_zero"}, {w2, w2_scale, w2_zero}, method, in, block);
    CheckSizes(in, *w1, *w2, up, down);
    vk::CheckMoeSlots(kOp, in, topk_weights, topk_ids, "topk_ids");
    constexpr int64_t kKnown = sizeof(kActivations) / sizeof(kActivations[0]);
    VK_CHECK(act_method >= 0 && act_method < kKnown,
             "%s: act_method is %lld, want a number from 0 to %lld", kOp, vk::Print(act_method),
             vk::Print(kKnown - 1));
    const int64_t experts = static_cast<int64_t>(up.experts());
    CheckBias("w1_bias", w1_bias, in, up);
    CheckBias("w2_bias", w2_bias, in, down);
    vk::CheckMoeOutput(kOp, "out", *out, "hidden_states", *hidden_states);
    if (vk::NumElements(*out) == 0) return;  // however many tokens there are
    vk::CheckMoeRouting(kOp, *topk_ids, experts, "topk_ids");
    vk::RunMoe({*out,
                *hidden_states,
                up,
                down,
                w1_bias,
                w2_bias,
                *topk_weights,
                *topk_ids,
                false,
                kActivations[act_method],
                {static_cast<float>(alpha), static_cast<float>(limit)}});
  });
}
