// The host's side of grouped GEMMs: one matrix of repacked weights for each expert.
#include "cuda/wna16/common/kernel_tables.h"
#include "cuda/wna16/large_experts/plan.h"
#include "cuda/wna16/marlin/launch.h"
#include "cuda/wna16/marlin/plan.h"
#include "cuda/wna16/select.h"
#include "cuda/wna16/wna16.h"

namespace vk::cuda::wna16 {
namespace {

constexpr char kOp[] = "moe_wna16_marlin_gemm";

// One expert's part of a tensor with one for each.
class Slice {
 public:
  // Of [experts, ...].
  Slice(const char* name, const vk_tensor* tensor, int64_t experts) {
    if (!Given(tensor)) return;
    Arg(kOp, name, tensor).MinDims(2).Size(0, experts).Contiguous();
    view_ = *tensor;
    view_.ndim = tensor->ndim - 1;
    for (int32_t dim = 0; dim < view_.ndim; ++dim) {
      view_.shape[dim] = tensor->shape[dim + 1];
      view_.stride[dim] = tensor->stride[dim + 1];
    }
    present_ = true;
  }
  // Of as many numbers, in any shape.
  static Slice OfNumbers(const char* name, const vk_tensor* tensor, int64_t experts) {
    Slice slice;
    if (!Given(tensor)) return slice;
    Arg(kOp, name, tensor).Contiguous();
    VK_CHECK(NumElements(*tensor) == experts,
             "%s: %s has shape %s, want one number for each of %lld experts", kOp, name,
             ShapeString(*tensor).c_str(), static_cast<long long>(experts));
    slice.view_ = *tensor;
    slice.view_.ndim = 1;
    slice.view_.shape[0] = slice.view_.stride[0] = 1;
    slice.present_ = true;
    return slice;
  }
  operator const vk_tensor*() const { return present_ ? &view_ : nullptr; }
  int64_t elements() const { return present_ ? NumElements(view_) : 0; }

 private:
  Slice() = default;
  vk_tensor view_{};
  bool present_ = false;
};

struct Checked {
  Problem problem;
  MarlinExpertParams experts;
  int64_t count;    // of experts
  int64_t places;   // of sorted_token_ids
  bool large;       // RunLargeExperts()
  MarlinPlan plan;  // else
  int64_t scratch_bytes;
};

Checked Check(const vk_marlin_problem* given, const vk_marlin_experts* routing, int64_t locks) {
  const Arg weights(kOp, "b_q_weight", given->b_q_weight);
  weights.Dims(3);
  const int64_t count = weights.size(0);
  VK_CHECK(count > 0, "%s: b_q_weight has no experts", kOp);
  const Slice weight("b_q_weight", given->b_q_weight, count);
  const Slice bias("b_bias", given->bias, count), scales("b_scales", given->scales, count);
  const Slice zeros("b_zeros", given->zeros, count);
  const Slice global_scale = Slice::OfNumbers("global_scale", given->global_scale, count);
  if (Given(given->g_idx)) {
    Fail(VK_UNSUPPORTED, "%s: no kernel for act_order (g_idx) of experts", kOp);
  }
  vk_marlin_problem one = *given;
  one.b_q_weight = weight;
  one.bias = bias;
  one.scales = scales;
  one.zeros = zeros;
  one.global_scale = global_scale;
  one.g_idx = one.perm = nullptr;
  Checked checked{};
  checked.problem = CheckProblem(kOp, &one);

  const int64_t block = routing->block, top_k = routing->top_k;
  VK_CHECK(block > 0 && block <= 64, "%s: moe_block_size is %lld, want 1 to 64", kOp,
           static_cast<long long>(block));
  VK_CHECK(top_k > 0 && top_k <= INT32_MAX / std::max<int64_t>(given->m, 1),
           "%s: top_k is %lld for %lld tokens", kOp, static_cast<long long>(top_k),
           static_cast<long long>(given->m));
  const Arg sorted(kOp, "sorted_token_ids", routing->sorted_token_ids);
  sorted.Dtype({VK_I32}).Dims(1).Contiguous();
  const Arg experts(kOp, "expert_ids", routing->expert_ids);
  experts.Dtype({VK_I32}).Dims(1).Contiguous();
  Arg(kOp, "num_tokens_past_padded", routing->num_tokens_past_padded).Dtype({VK_I32}).Contiguous();
  VK_CHECK(NumElements(*routing->num_tokens_past_padded) == 1,
           "%s: num_tokens_past_padded has shape %s, want one number", kOp,
           ShapeString(*routing->num_tokens_past_padded).c_str());
  const int64_t rows = given->m * top_k;
  const float* factors = nullptr;
  if (routing->topk_weights != nullptr) {
    Arg(kOp, "topk_weights", routing->topk_weights).Dtype({VK_F32}).Contiguous();
    VK_CHECK(NumElements(*routing->topk_weights) == rows,
             "%s: topk_weights has shape %s, want %lld values", kOp,
             ShapeString(*routing->topk_weights).c_str(), static_cast<long long>(rows));
    factors = static_cast<const float*>(routing->topk_weights->data);
  }
  checked.experts = {static_cast<const int32_t*>(routing->sorted_token_ids->data),
                     static_cast<const int32_t*>(routing->expert_ids->data),
                     static_cast<const int32_t*>(routing->num_tokens_past_padded->data),
                     factors,
                     weight.elements() * 4,
                     scales.elements(),
                     zeros.elements(),
                     bias.elements(),
                     static_cast<int>(block),
                     static_cast<int>(top_k),
                     static_cast<int>(rows)};
  VK_CHECK(locks > 0, "%s: workspace is empty, want at least one int32, zero", kOp);
  checked.scratch_bytes = CopyBytes(checked.problem);
  checked.count = count;
  checked.places = sorted.size(0);
  const int64_t m_tiles =
      ExpertTiles(checked.experts.rows, static_cast<int>(count), checked.experts.block);
  checked.large =
      SelectsLargeExperts(kOp, checked.problem, checked.experts, m_tiles, checked.places);
  if (checked.large) {
    checked.scratch_bytes += LargeExpertsTokenBytes(checked.places, checked.problem.k);
    return checked;
  }
  checked.plan =
      MakeMarlinExpertPlan(checked.experts.block, m_tiles, checked.problem.n, checked.problem.k,
                           checked.problem.type, LimitsOf(kOp), locks);
  checked.scratch_bytes += checked.plan.partial_bytes;
  return checked;
}

void Run(const vk_tensor* c, const vk_marlin_problem* given, const vk_marlin_experts* routing,
         const vk_tensor* workspace, const vk_tensor* scratch, cudaStream_t stream) {
  Arg(kOp, "workspace", workspace).Dtype({VK_I32}).Dims(1).Contiguous();
  const Checked checked = Check(given, routing, workspace->shape[0]);
  const Arg out(kOp, "c", c);
  out.SameDtype(Arg(kOp, "a", given->a)).Dims(2);
  out.Size(0, checked.experts.rows).Size(1, checked.problem.n).Contiguous();
  VK_CHECK(reinterpret_cast<uintptr_t>(c->data) % 16 == 0,
           "%s: c starts at %p, want a multiple of 16 bytes", kOp, c->data);
  if (checked.experts.rows == 0) return;
  const int64_t bytes = scratch != nullptr ? NumElements(*scratch) : 0;
  VK_CHECK(bytes >= checked.scratch_bytes, "%s: scratch has %lld bytes, want %lld", kOp,
           static_cast<long long>(bytes), static_cast<long long>(checked.scratch_bytes));
  auto* const start = bytes > 0 ? static_cast<unsigned char*>(scratch->data) : nullptr;
  if (checked.large) {
    return RunLargeExperts(kOp, checked.problem, checked.experts, checked.count, checked.places,
                           c->data, start, stream);
  }
  MarlinParams params =
      MakeMarlinParams(kOp, checked.problem, checked.plan, c->data, start, stream);
  params.locks = static_cast<int32_t*>(workspace->data);
  params.experts = checked.experts;
  LaunchMarlin(kOp,
               MarlinExpertKernels(checked.problem.dtype == VK_BF16,
                                   checked.problem.type)[checked.plan.shape],
               params, checked.plan, stream);
}

}  // namespace
}  // namespace vk::cuda::wna16

namespace wna16 = vk::cuda::wna16;

extern "C" {

vk_status vk_cuda_moe_marlin_scratch(const vk_marlin_problem* problem,
                                     const vk_marlin_experts* experts, int64_t locks,
                                     int64_t* bytes) {
  return vk::Guard([&] {
    const auto checked = wna16::Check(problem, experts, locks);
    *bytes = checked.scratch_bytes;
  });
}

vk_status vk_cuda_moe_marlin_gemm(const vk_tensor* c, const vk_marlin_problem* problem,
                                  const vk_marlin_experts* experts, const vk_tensor* workspace,
                                  const vk_tensor* scratch, void* stream) {
  return vk::Guard([&] {
    wna16::Run(c, problem, experts, workspace, scratch, static_cast<cudaStream_t>(stream));
  });
}

}  // extern "C"
