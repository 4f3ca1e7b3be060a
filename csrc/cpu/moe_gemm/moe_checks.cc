#include "cpu/moe_gemm/moe_checks.h"

#include "core/overlap.h"
#include "cpu/moe_gemm/moe_gemm_run.h"

namespace vk {
namespace {

constexpr int64_t kMostSlots = 4096;  // no router chooses that many

}  // namespace

bool SharesMemory(const vk_tensor& one, const vk_tensor& other) {
  return Overlap(one, DtypeSize(one.dtype), other, DtypeSize(other.dtype));
}

void CheckMoeSlots(const char* op, const Arg& input, const vk_tensor* topk_weights,
                   const vk_tensor* topk_ids, const char* ids_name) {
  const Arg ids(op, ids_name, topk_ids), weights(op, "topk_weights", topk_weights);
  ids.Dtype({VK_I32, VK_I64}).Dims(2).Size(0, input.size(0));
  weights.Dtype({VK_F32}).SameShape(ids);
  VK_CHECK(ids.size(1) <= kMostSlots, "%s: %s has shape %s, want at most %lld experts a token", op,
           ids_name, ShapeString(*topk_ids).c_str(), Print(kMostSlots));
}

void CheckMoeRouting(const char* op, const vk_tensor& topk_ids, int64_t experts,
                     const char* ids_name) {
  for (int64_t token = 0; token < topk_ids.shape[0]; ++token) {
    for (int64_t slot = 0; slot < topk_ids.shape[1]; ++slot) {
      const int64_t expert = MoeExpert(topk_ids, token, slot);
      VK_CHECK(expert >= 0 && expert < experts,
               "%s: %s[%lld, %lld] is %lld, want an expert from 0 to %lld", op, ids_name,
               Print(token), Print(slot), Print(expert), Print(experts - 1));
    }
  }
}

PackedScales CheckMoeRowScales(const char* op, const char* name, const vk_tensor* scale,
                               const Arg& weight) {
  const Arg given(op, name, scale);
  const int64_t columns = weight.size(1), depth = weight.size(2);
  given.Dtype({VK_F32}).MinDims(2).Size(0, weight.size(0)).Size(1, columns).Contiguous();
  if (scale->ndim != 2) given.Dims(3).Size(2, 1);
  PackedScales scales{scale->data};
  scales.group_size = depth > 0 ? depth : 1;
  scales.expert_stride = columns;
  scales.block_stride = 1;
  return scales;
}

void CheckMoeBias(const char* op, const char* name, const vk_tensor* bias, const Arg& input,
                  int64_t experts, int64_t columns, MoeBias dtypes) {
  if (bias == nullptr) return;
  const Arg arg(op, name, bias);
  if (dtypes == MoeBias::kInputDtype || bias->dtype != VK_F32) arg.SameDtype(input);
  arg.Dims(2).Size(0, experts).Size(1, columns).Contiguous();
}

void CheckMoeOutput(const char* op, const char* out_name, const vk_tensor& out, const char* in_name,
                    const vk_tensor& in) {
  VK_CHECK(!SharesMemory(out, in), "%s: %s shares memory with %s, want memory of its own", op,
           out_name, in_name);
}

}  // namespace vk
