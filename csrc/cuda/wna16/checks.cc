#include "cuda/wna16/checks.h"

#include <string>

#include "cuda/wna16/common/plan.h"

namespace vk::cuda::wna16 {
namespace {

bool Aligned16(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

void CheckAligned(const char* op, const char* name, const void* pointer) {
  VK_CHECK(Aligned16(pointer), "%s: %s starts at %p, want a multiple of 16 bytes", op, name,
           pointer);
}

// As the engine prints it: uint4b8, float8_e4m3fn.
std::string TypeName(int64_t id) {
  const int64_t exponent = id & 255, mantissa = id >> 8 & 255, sign = id >> 16 & 1,
                bias = id >> 17 & 0xffffffff;
  std::string name = exponent > 0 ? "float" : sign ? "int" : "uint";
  name += std::to_string(exponent + mantissa + sign);
  if (exponent > 0) {
    name += "_e";
    name += std::to_string(exponent);
    name += "m";
    name += std::to_string(mantissa);
  } else if (bias > 0) {
    name += "b";
    name += std::to_string(bias);
  }
  return name;
}

// FP4 has two formats of scales, which their dtype tells apart.
WeightType CheckWeightType(const char* op, int64_t id, const vk_tensor& scales) {
  switch (id) {
    case kIdU4B8:
      return WeightType::kU4B8;
    case kIdU4:
      return WeightType::kU4;
    case kIdU8B128:
      return WeightType::kU8B128;
    case kIdFp8E4M3:
      return WeightType::kFp8;
    case kIdFp4E2M1:
      if (scales.dtype == VK_F8E8M0) return WeightType::kMxFp4;
      if (scales.dtype == VK_F8E4M3) return WeightType::kNvFp4;
      Fail(VK_UNSUPPORTED,
           "%s: no kernel for float4_e2m1 weights with scales of dtype %s, only for "
           "float8_e8m0fnu (MXFP4) and float8_e4m3fn (NVFP4)",
           op, DtypeName(scales.dtype));
    default:
      Fail(VK_UNSUPPORTED,
           "%s: no kernel for weights of type %s (id %lld), only for uint4b8, uint4 with zero "
           "points, uint8b128, float8_e4m3fn and float4_e2m1",
           op, TypeName(id).c_str(), static_cast<long long>(id));
  }
}

void CheckScales(const char* op, const vk_marlin_problem& problem, Problem* checked) {
  const Arg scales(op, "b_scales", problem.scales);
  if (!IsFp4(checked->type)) {
    if (problem.scales->dtype != VK_F16 && problem.scales->dtype != VK_BF16) {
      Fail(VK_UNSUPPORTED, "%s: no kernel for scales of dtype %s, only for float16 and bfloat16",
           op, DtypeName(problem.scales->dtype));
    }
    scales.SameDtype(Arg(op, "a", problem.a));
  }
  scales.Dims(2).Size(1, problem.n).Contiguous();
  CheckAligned(op, "b_scales", problem.scales->data);
  if (IsFp4(checked->type)) scales.Size(0, problem.k / Fp4Group(checked->type));
  checked->scales = problem.scales->data;
  checked->groups = static_cast<int>(scales.size(0));

  const bool wants_global = checked->type == WeightType::kNvFp4;
  VK_CHECK(Given(problem.global_scale) == wants_global,
           "%s: global_scale %s, but weights of type %s with scales of dtype %s want %s", op,
           wants_global ? "is absent" : "is given", TypeName(problem.b_type_id).c_str(),
           DtypeName(problem.scales->dtype), wants_global ? "one" : "none");
  if (!wants_global) return;
  Arg(op, "global_scale", problem.global_scale).Dtype({VK_F32});
  VK_CHECK(NumElements(*problem.global_scale) == 1,
           "%s: global_scale has shape %s, want one number", op,
           ShapeString(*problem.global_scale).c_str());
  checked->global_scale = static_cast<const float*>(problem.global_scale->data);
}

}  // namespace

const float* Factors(const char* op, const char* name, const vk_tensor* tensor, int64_t count) {
  Arg(op, name, tensor).Dtype({VK_F32}).Contiguous();
  VK_CHECK(NumElements(*tensor) == count, "%s: %s has shape %s, want %lld elements", op, name,
           ShapeString(*tensor).c_str(), static_cast<long long>(count));
  return static_cast<const float*>(tensor->data);
}

Problem CheckProblem(const char* op, const vk_marlin_problem* problem) {
  Problem checked{};
  checked.type =
      CheckWeightType(op, problem->b_type_id, Arg(op, "b_scales", problem->scales).tensor());
  const int bits = Bits(checked.type);
  const int64_t m = problem->m, n = problem->n, k = problem->k;
  VK_CHECK(k > 0 && k % 64 == 0 && n > 0 && n % 64 == 0 && k <= INT32_MAX && n <= INT32_MAX,
           "%s: size_n x size_k is %lld x %lld, want multiples of 64", op,
           static_cast<long long>(n), static_cast<long long>(k));
  VK_CHECK(k <= kMaxK, "%s: size_k is %lld, want at most %d", op, static_cast<long long>(k), kMaxK);
  VK_CHECK(m >= 0 && m <= INT32_MAX, "%s: size_m is %lld, want a count of rows", op,
           static_cast<long long>(m));

  const Arg a(op, "a", problem->a);
  if (problem->a->dtype == VK_I8 || problem->a->dtype == VK_F8E4M3) {
    Fail(VK_UNSUPPORTED,
         "%s: no kernel for activations of 8 bits (a is %s), only for float16 and "
         "bfloat16; unset VLLM_MARLIN_INPUT_DTYPE",
         op, DtypeName(problem->a->dtype));
  }
  a.Dtype({VK_F16, VK_BF16}).Dims(2).Size(0, m).Size(1, k).LastDimContiguous();
  Arg(op, "b_q_weight", problem->b_q_weight)
      .Dtype({VK_I32})
      .Dims(2)
      .Size(0, k / 16)
      .Size(1, n * bits / 2)
      .Contiguous();
  CheckAligned(op, "b_q_weight", problem->b_q_weight->data);

  CheckScales(op, *problem, &checked);
  const int64_t groups = checked.groups;
  const bool wants_zeros = checked.type == WeightType::kU4;
  VK_CHECK(Given(problem->zeros) == wants_zeros, "%s: b_zeros %s, but weights of type %s want %s",
           op, wants_zeros ? "is absent" : "is given", TypeName(problem->b_type_id).c_str(),
           wants_zeros ? "them" : "none");
  if (wants_zeros) {
    Arg(op, "b_zeros", problem->zeros)
        .Dtype({VK_I32})
        .Dims(2)
        .Size(0, groups)
        .Size(1, n / 8)
        .Contiguous();
    CheckAligned(op, "b_zeros", problem->zeros->data);
    checked.zeros = static_cast<const uint32_t*>(problem->zeros->data);
  }
  if (Given(problem->bias)) {
    Arg(op, "b_bias", problem->bias).SameDtype(a).Dims(1).Size(0, n).Contiguous();
    checked.bias = problem->bias->data;
  }

  // Of no tokens, there are no scales.
  VK_CHECK(m == 0 || Given(problem->token_scales) == Given(problem->channel_scales),
           "%s: token_scales or channel_scales is given alone, want both or none", op);
  if (Given(problem->token_scales)) {
    VK_CHECK(checked.type == WeightType::kU4B8 && problem->a->dtype == VK_BF16,
             "%s: token_scales is given, want none but for bfloat16 and weights of type uint4b8",
             op);
    checked.token_scales = Factors(op, "token_scales", problem->token_scales, m);
    checked.channel_scales = Factors(op, "channel_scales", problem->channel_scales, n);
  }

  const bool act_order = Given(problem->g_idx);
  VK_CHECK(act_order == Given(problem->perm), "%s: %s is given without %s, want both or none", op,
           act_order ? "g_idx" : "perm", act_order ? "perm" : "g_idx");
  VK_CHECK(!act_order || !IsFp4(checked.type),
           "%s: g_idx is given, but weights of type %s want none", op,
           TypeName(problem->b_type_id).c_str());
  if (act_order) {
    Arg(op, "g_idx", problem->g_idx).Dtype({VK_I32}).Dims(1).Size(0, k).Contiguous();
    Arg(op, "perm", problem->perm).Dtype({VK_I32}).Dims(1).Size(0, k).Contiguous();
    checked.perm = static_cast<const int32_t*>(problem->perm->data);
    if (!problem->is_k_full && groups > 1) {
      checked.g_idx = static_cast<const int32_t*>(problem->g_idx->data);
    }
  }
  VK_CHECK(groups > 0, "%s: b_scales has no rows, want one for each group", op);
  if (checked.g_idx == nullptr) {
    const int64_t group = k / groups;
    VK_CHECK(
        k % groups == 0 && (groups == 1 || group == 32 || group % 64 == 0 || IsFp4(checked.type)),
        "%s: b_scales has %lld rows for %lld of K, want groups of 32 or a multiple of 64", op,
        static_cast<long long>(groups), static_cast<long long>(k));
    checked.group = static_cast<int>(group);
  } else {
    checked.group = 64;  // unused
  }
  checked.dtype = problem->a->dtype;
  checked.m = static_cast<int>(m);
  checked.n = static_cast<int>(n);
  checked.k = static_cast<int>(k);
  checked.a = problem->a->data;
  checked.lda = m > 1 ? a.stride(0) : k;
  checked.weights = problem->b_q_weight->data;
  checked.per_channel = groups == 1;
  checked.copies_a = checked.perm != nullptr || !Aligned16(checked.a) || checked.lda % 8 != 0;
  return checked;
}

}  // namespace vk::cuda::wna16
