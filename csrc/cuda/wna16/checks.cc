#include "cuda/wna16/checks.h"

#include <string>

#include "cuda/wna16/common/plan.h"

namespace vk::cuda::wna16 {
namespace {

bool Given(const vk_tensor* tensor) { return tensor != nullptr && NumElements(*tensor) > 0; }

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

}  // namespace

WeightType CheckWeightType(const char* op, int64_t id) {
  switch (id) {
    case kIdU4B8:
      return WeightType::kU4B8;
    case kIdU4:
      return WeightType::kU4;
    case kIdU8B128:
      return WeightType::kU8B128;
    case kIdFp8E4M3:
      return WeightType::kFp8;
    default:
      Fail(VK_UNSUPPORTED,
           "%s: no kernel for weights of type %s (id %lld), only for uint4b8, uint4 with zero "
           "points, uint8b128 and float8_e4m3fn",
           op, TypeName(id).c_str(), static_cast<long long>(id));
  }
}

Problem CheckProblem(const char* op, const vk_marlin_problem* problem) {
  Problem checked{};
  checked.type = CheckWeightType(op, problem->b_type_id);
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

  const Arg scales(op, "b_scales", problem->scales);
  if (problem->scales->dtype != VK_F16 && problem->scales->dtype != VK_BF16) {
    Fail(VK_UNSUPPORTED, "%s: no kernel for scales of dtype %s, only for float16 and bfloat16", op,
         DtypeName(problem->scales->dtype));
  }
  scales.SameDtype(a).Dims(2).Size(1, n).Contiguous();
  CheckAligned(op, "b_scales", problem->scales->data);
  const int64_t groups = scales.size(0);
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

  const bool act_order = Given(problem->g_idx);
  VK_CHECK(act_order == Given(problem->perm), "%s: %s is given without %s, want both or none", op,
           act_order ? "g_idx" : "perm", act_order ? "perm" : "g_idx");
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
    VK_CHECK(k % groups == 0 && (groups == 1 || group == 32 || group % 64 == 0),
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
  checked.scales = problem->scales->data;
  checked.groups = static_cast<int>(groups);
  checked.per_channel = groups == 1;
  checked.copies_a = checked.perm != nullptr || !Aligned16(checked.a) || checked.lda % 8 != 0;
  return checked;
}

}  // namespace vk::cuda::wna16
