// Experts whose weights have 16, 8 or 4 bits, packed by vk_cpu_convert_weight_packed.
#include "core/check.h"
#include "cpu/moe_gemm/moe_checks.h"
#include "cpu/moe_gemm/moe_gemm.h"
#include "cpu/moe_gemm/moe_gemm_run.h"

namespace {

using vk::Arg;
using vk::PackedCoding;
using vk::PackedScales;
using vk::PackedWeights;

constexpr const char* kOp = "fused_experts_cpu";
constexpr int64_t kMxfp4Group = 32, kMxfp4Columns = 32;

// The engine's numbers of how weights are stored, and of activations.
enum Method { kUnquantised = 0, kInt8 = 1, kFp8 = 2, kMxfp4 = 4 };
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
               "%s: moe_comp_method is %lld, want 0 (16 bits), 1 (INT8), 2 (FP8) or 4 (MXFP4)", kOp,
               vk::Print(method));
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
  if (method == kInt8) {
    given.Dtype({VK_F32}).MinDims(2).Size(0, experts).Size(1, columns).Contiguous();
    if (scale->ndim != 2) given.Dims(3).Size(2, 1);
    scales.group_size = depth > 0 ? depth : 1;
    scales.expert_stride = columns;
    scales.block_stride = 1;
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

const vk_tensor* CheckBias(const char* name, const vk_tensor* bias, const Arg& input,
                           int64_t experts, int64_t columns) {
  if (bias == nullptr) return nullptr;
  const Arg arg(kOp, name, bias);
  arg.Dims(2).Size(0, experts).Size(1, columns).Contiguous();
  if (bias->dtype != VK_F32) arg.SameDtype(input);
  return bias;
}

}  // namespace

extern "C" vk_status vk_cpu_fused_experts(const vk_tensor* out, const vk_tensor* hidden_states,
                                          const vk_tensor* w1, const vk_tensor* w2,
                                          const vk_tensor* topk_weights, const vk_tensor* topk_ids,
                                          int64_t method, const vk_tensor* w1_scale,
                                          const vk_tensor* w2_scale, int64_t block_n,
                                          int64_t block_k, const vk_tensor* w1_bias,
                                          const vk_tensor* w2_bias, int64_t act_method,
                                          double alpha, double limit) {
  return vk::Guard([&] {
    const Arg in(kOp, "hidden_states", hidden_states), result(kOp, "out", out);
    in.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(2).LastDimContiguous();
    result.SameDtype(in).SameShape(in).LastDimContiguous();
    const Stored stored = FindStored(method, in);
    const Arg up(kOp, "w1", w1), down(kOp, "w2", w2);
    VK_CHECK(in.size(1) % stored.values == 0,
             "%s: hidden_states has shape %s, want an even last dimension for 4-bit weights", kOp,
             vk::ShapeString(*hidden_states).c_str());
    up.Dtype({stored.dtype}).Dims(3).Size(2, in.size(1) / stored.values).Contiguous();
    down.Dtype({stored.dtype}).Dims(3).Size(0, up.size(0)).Size(1, in.size(1)).Contiguous();
    const int64_t inner = down.size(2) * stored.values;
    VK_CHECK(up.size(1) == 2 * inner,
             "%s: w1 has shape %s and w2 %s, want twice as many columns of w1 as w2 is deep", kOp,
             vk::ShapeString(*w1).c_str(), vk::ShapeString(*w2).c_str());
    vk::CheckMoeSlots(kOp, in, topk_weights, topk_ids, "topk_ids");
    constexpr int64_t kKnown = sizeof(kActivations) / sizeof(kActivations[0]);
    VK_CHECK(act_method >= 0 && act_method < kKnown,
             "%s: act_method is %lld, want a number from 0 to %lld", kOp, vk::Print(act_method),
             vk::Print(kKnown - 1));
    const int64_t experts = up.size(0), block[] = {block_n, block_k};
    const PackedScales of_w1 =
        FindScales("w1_scale", w1_scale, method, experts, up.size(1), in.size(1), block);
    const PackedScales of_w2 =
        FindScales("w2_scale", w2_scale, method, experts, in.size(1), inner, block);
    const vk_tensor* up_bias = CheckBias("w1_bias", w1_bias, in, experts, up.size(1));
    const vk_tensor* down_bias = CheckBias("w2_bias", w2_bias, in, experts, in.size(1));
    vk::CheckMoeOutput(kOp, "out", *out, "hidden_states", *hidden_states);
    if (vk::NumElements(*out) == 0) return;  // however many tokens there are
    vk::CheckMoeRouting(kOp, *topk_ids, experts, "topk_ids");
    vk::RunMoe({*out,
                *hidden_states,
                PackedWeights(*w1, stored.coding, of_w1),
                PackedWeights(*w2, stored.coding, of_w2),
                up_bias,
                down_bias,
                *topk_weights,
                *topk_ids,
                false,
                kActivations[act_method],
                {static_cast<float>(alpha), static_cast<float>(limit)}});
  });
}
