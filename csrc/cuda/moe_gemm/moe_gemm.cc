#include "cuda/moe_gemm/moe_gemm.h"

#include <utility>

#include "core/check.h"
#include "core/status.h"
#include "cuda/common/launch.h"
#include "cuda/common/rows.h"
#include "cuda/moe_gemm/grouped.h"

namespace {

using vk::Arg;
using vk::cuda::CheckRowsAligned;
using vk::cuda::moe_gemm::GroupedCall;
using vk::cuda::moe_gemm::kMaxExperts;

constexpr char kOp[] = "cutlass_moe_mm";

int32_t Size(const char* name, int64_t size, int64_t least) {
  VK_CHECK(size >= least && size <= INT32_MAX, "%s: %s is %lld, want %lld to 2^31 - 1", kOp, name,
           static_cast<long long>(size), static_cast<long long>(least));
  return static_cast<int32_t>(size);
}

const float* Scales(const char* name, const vk_tensor* tensor, int64_t count) {
  Arg(kOp, name, tensor).Dtype({VK_F32}).Contiguous();
  VK_CHECK(vk::NumElements(*tensor) == count, "%s: %s has shape %s, want %lld elements", kOp, name,
           vk::ShapeString(*tensor).c_str(), static_cast<long long>(count));
  return static_cast<const float*>(tensor->data);
}

void CheckStrides(const char* name, const vk_tensor* tensor, int64_t experts) {
  Arg(kOp, name, tensor).Dtype({VK_I64}).Dims(1).Size(0, experts);
}

// [experts, n, k], from that or from its transpose.
vk_tensor Weights(const vk_tensor* b) {
  Arg(kOp, "b_tensors", b).Dtype({VK_F8E4M3}).Dims(3);
  vk_tensor weights = *b;
  if (weights.stride[2] != 1 && weights.stride[1] == 1) {
    std::swap(weights.shape[1], weights.shape[2]);
    std::swap(weights.stride[1], weights.stride[2]);
  }
  CheckRowsAligned(kOp, Arg(kOp, "b_tensors", &weights).LastDimContiguous(), 16);
  return weights;
}

}  // namespace

extern "C" {

bool vk_cuda_group_gemm_supported(int64_t capability) { return capability == 90; }

vk_status vk_cuda_cutlass_moe_mm(const vk_tensor* out, const vk_tensor* a, const vk_tensor* b,
                                 const vk_tensor* a_scales, const vk_tensor* b_scales,
                                 const vk_tensor* expert_offsets, const vk_tensor* problem_sizes,
                                 const vk_tensor* a_strides, const vk_tensor* b_strides,
                                 const vk_tensor* c_strides, bool per_act_token, bool per_out_ch,
                                 void* stream) {
  return vk::Guard([&] {
    const Arg tokens(kOp, "a_tensors", a), result(kOp, "out_tensors", out);
    tokens.Dtype({VK_F8E4M3}).Dims(2).LastDimContiguous();
    result.Dtype({VK_BF16, VK_F16}).Dims(2).Size(0, tokens.size(0)).LastDimContiguous();
    const vk_tensor weights = Weights(b);
    const Arg weight(kOp, "b_tensors", &weights);
    weight.Size(1, result.size(1)).Size(2, tokens.size(1));
    const int64_t experts = weight.size(0);
    VK_CHECK(experts >= 1 && experts <= kMaxExperts, "%s: %lld experts, want 1 to %d", kOp,
             static_cast<long long>(experts), kMaxExperts);

    GroupedCall call = {};
    call.grouped.rows = Size("the number of rows", tokens.size(0), 0);
    call.grouped.n = Size("n", result.size(1), 0);
    call.grouped.k = Size("k", tokens.size(1), 1);
    call.grouped.experts = static_cast<int32_t>(experts);
    VK_CHECK(call.grouped.n % 8 == 0, "%s: n is %d, want a multiple of 8", kOp, call.grouped.n);
    CheckRowsAligned(kOp, tokens, 16);
    CheckRowsAligned(kOp, result, 16);

    call.grouped.per_token = per_act_token;
    call.grouped.per_channel = per_out_ch;
    call.grouped.per_expert =
        !per_act_token && experts > 1 && vk::NumElements(*a_scales) == experts;
    call.grouped.token_scales = Scales("a_scales", a_scales,
                                       per_act_token             ? tokens.size(0)
                                       : call.grouped.per_expert ? experts
                                                                 : 1);
    call.grouped.weight_scales =
        Scales("b_scales", b_scales, per_out_ch ? experts * result.size(1) : experts);

    const Arg offsets(kOp, "expert_offsets", expert_offsets);
    offsets.Dtype({VK_I32, VK_I64}).Dims(1).Contiguous();
    VK_CHECK(offsets.size(0) >= experts, "%s: expert_offsets has shape %s, want at least %lld", kOp,
             vk::ShapeString(*expert_offsets).c_str(), static_cast<long long>(experts));
    call.grouped.first_rows = expert_offsets->data;
    call.grouped.wide_first_rows = expert_offsets->dtype == VK_I64;
    Arg(kOp, "problem_sizes", problem_sizes)
        .Dtype({VK_I32})
        .Dims(2)
        .Size(0, experts)
        .Size(1, 3)
        .Contiguous();
    call.grouped.sizes = static_cast<const int32_t*>(problem_sizes->data);
    CheckStrides("a_strides", a_strides, experts);
    CheckStrides("b_strides", b_strides, experts);
    CheckStrides("c_strides", c_strides, experts);
    if (call.grouped.rows == 0 || call.grouped.n == 0) return;

    call.grouped.out = out->data;
    call.grouped.out_stride = result.stride(0);
    call.tokens = a->data;
    call.weights = weights.data;
    call.token_stride = tokens.stride(0);
    call.weight_stride = weight.stride(1);
    call.expert_stride = weight.stride(0);
    call.bfloat16 = out->dtype == VK_BF16;
    RunGrouped(kOp, call, vk::cuda::AsStream(stream));
  });
}

}  // extern "C"
