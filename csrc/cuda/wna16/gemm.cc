// The host's side of GEMMs with repacked weights.
#include <cuda_runtime.h>

#include <atomic>

#include "cuda/wna16/checks.h"
#include "cuda/wna16/common/kernel_tables.h"
#include "cuda/wna16/marlin/launch.h"
#include "cuda/wna16/marlin/plan.h"
#include "cuda/wna16/select.h"
#include "cuda/wna16/wna16.h"

namespace vk::cuda::wna16 {
namespace {

constexpr char kOp[] = "marlin_gemm";

// A forced block shape also forces Marlin's kernel.
std::atomic<int> forced_shape{-1}, forced_stages{-1}, forced_blocks{-1}, forced_prefetch{-1};

Algorithm AlgorithmOf(const Problem& problem) {
  return forced_shape >= 0 ? Algorithm::kMarlin : Select(kOp, problem);
}

MarlinPlan PlanOf(const Problem& problem, int64_t locks) {
  MarlinPlanOverride force;
  force.shape = forced_shape;
  force.stages = forced_stages;
  force.blocks = forced_blocks;
  force.prefetch = forced_prefetch;
  return MakeMarlinPlan(problem.m, problem.n, problem.k, problem.type, LimitsOf(kOp), locks, force);
}

// What a GEMM needs beside its operands.
struct Requirements {
  Algorithm algorithm;
  MarlinPlan plan;  // of Algorithm::kMarlin
  int64_t scratch_bytes;
};

Requirements Require(const Problem& problem, int64_t locks) {
  if (problem.g_idx != nullptr) {
    Fail(VK_UNSUPPORTED,
         "%s: no kernel for act_order over a part of K (is_k_full is false), want the product with "
         "dequantized weights",
         kOp);
  }
  VK_CHECK(locks > 0, "%s: workspace is empty, want at least one int32, zero", kOp);
  Requirements required{};
  required.scratch_bytes = CopyBytes(problem);
  if (problem.m == 0) return required;
  required.algorithm = AlgorithmOf(problem);
  if (required.algorithm == Algorithm::kMarlin) {
    required.plan = PlanOf(problem, locks);
    required.scratch_bytes += required.plan.partial_bytes;
  }
  return required;
}

void Run(const vk_tensor* c, const vk_marlin_problem* given, const vk_tensor* workspace,
         const vk_tensor* scratch, cudaStream_t stream) {
  const Problem problem = CheckProblem(kOp, given);
  const Arg out(kOp, "c", c);
  out.SameDtype(Arg(kOp, "a", given->a)).Dims(2).Size(0, problem.m).Size(1, problem.n);
  out.Contiguous();
  VK_CHECK(reinterpret_cast<uintptr_t>(c->data) % 16 == 0,
           "%s: c starts at %p, want a multiple of 16 bytes", kOp, c->data);
  Arg(kOp, "workspace", workspace).Dtype({VK_I32}).Dims(1).Contiguous();
  const Requirements required = Require(problem, workspace->shape[0]);
  if (problem.m == 0) return;

  const int64_t bytes = scratch != nullptr ? NumElements(*scratch) : 0;
  VK_CHECK(bytes >= required.scratch_bytes, "%s: scratch has %lld bytes, want %lld", kOp,
           static_cast<long long>(bytes), static_cast<long long>(required.scratch_bytes));
  auto* const memory = bytes > 0 ? static_cast<unsigned char*>(scratch->data) : nullptr;
  switch (required.algorithm) {
    case Algorithm::kSmallM:
      return RunSmallM(kOp, problem, c->data, memory, stream);
    case Algorithm::kLargeM:
      return RunLargeM(kOp, problem, c->data, memory, stream);
    case Algorithm::kMarlin:
      break;
  }
  const MarlinPlan& plan = required.plan;
  MarlinParams params = MakeMarlinParams(kOp, problem, plan, c->data, memory, stream);
  params.locks = static_cast<int32_t*>(workspace->data);
  LaunchMarlin(kOp, MarlinKernels(problem.dtype == VK_BF16, problem.type)[plan.shape], params, plan,
               stream);
}

}  // namespace
}  // namespace vk::cuda::wna16

namespace wna16 = vk::cuda::wna16;

extern "C" {

vk_status vk_cuda_marlin_plan(const vk_marlin_problem* problem, int64_t locks,
                              vk_marlin_plan* plan) {
  return vk::Guard([&] {
    *plan = {};
    plan->dequantize = wna16::forced_shape < 0 && wna16::PrefersDequantize(wna16::kOp, *problem);
    if (plan->dequantize) return;
    const wna16::Problem checked = wna16::CheckProblem(wna16::kOp, problem);
    const wna16::Requirements required = wna16::Require(checked, locks);
    plan->scratch_bytes = required.scratch_bytes;
    plan->scales_result =
        checked.channel_scales != nullptr && required.algorithm == wna16::Algorithm::kSmallM;
  });
}

vk_status vk_cuda_marlin_gemm(const vk_tensor* c, const vk_marlin_problem* problem,
                              const vk_tensor* workspace, const vk_tensor* scratch, void* stream) {
  return vk::Guard(
      [&] { wna16::Run(c, problem, workspace, scratch, static_cast<cudaStream_t>(stream)); });
}

int32_t vk_cuda_marlin_force(int32_t shape, int32_t stages, int32_t blocks, int32_t prefetch) {
  wna16::forced_shape = shape;
  wna16::forced_stages = stages;
  wna16::forced_blocks = blocks;
  wna16::forced_prefetch = prefetch;
  return wna16::kMarlinShapeCount;
}

}  // extern "C"
