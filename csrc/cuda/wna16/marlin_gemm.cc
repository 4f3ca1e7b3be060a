// The host's side of products with repacked weights.
#include <cuda_runtime.h>

#include <atomic>

#include "cuda/common/launch.h"
#include "cuda/wna16/hopper_launch.h"
#include "cuda/wna16/marlin_launch.h"
#include "cuda/wna16/marlin_plan.h"
#include "cuda/wna16/marlin_problem.h"
#include "cuda/wna16/wna16.h"

namespace vk::wna16 {
namespace {

constexpr char kOp[] = "marlin_gemm";
// From so many tokens on, the matrix units pay for weights that are dequantized to memory first;
// later where there is a kernel for Hopper.
constexpr int64_t kDequantizeTokens = 256, kHopperDequantizeTokens = 2048;

std::atomic<int> forced_shape{-1}, forced_stages{-1}, forced_blocks{-1}, forced_prefetch{-1};

Plan PlanOf(const MarlinProblem& problem, int64_t locks) {
  PlanOverride force;
  force.shape = forced_shape;
  force.stages = forced_stages;
  force.blocks = forced_blocks;
  force.prefetch = forced_prefetch;
  return MakePlan(problem.m, problem.n, problem.k, problem.type, LimitsOf(kOp), locks, force);
}

bool OnHopper(const MarlinProblem& problem) {
  return forced_shape < 0 && HopperServes(kOp, problem);
}

void CheckNoGroupIndex(const MarlinProblem& problem) {
  if (problem.g_idx != nullptr) {
    Fail(VK_UNSUPPORTED,
         "%s: no kernel for act_order over a part of K (is_k_full is false), want the product with "
         "dequantized weights",
         kOp);
  }
}

void Run(const vk_tensor* c, const vk_marlin_problem* given, const vk_tensor* workspace,
         const vk_tensor* scratch, cudaStream_t stream) {
  const MarlinProblem problem = CheckProblem(kOp, given);
  CheckNoGroupIndex(problem);
  const Arg out(kOp, "c", c);
  out.SameDtype(Arg(kOp, "a", given->a)).Dims(2).Size(0, problem.m).Size(1, problem.n);
  out.Contiguous();
  VK_CHECK(reinterpret_cast<uintptr_t>(c->data) % 16 == 0,
           "%s: c starts at %p, want a multiple of 16 bytes", kOp, c->data);
  Arg(kOp, "workspace", workspace).Dtype({VK_I32}).Dims(1).Contiguous();
  const int64_t locks = workspace->shape[0];
  VK_CHECK(locks > 0, "%s: workspace is empty, want at least one int32, zero", kOp);
  if (problem.m == 0) return;

  const bool hopper = OnHopper(problem);
  const Plan plan = hopper ? Plan{} : PlanOf(problem, locks);
  const int64_t copy_bytes = CopyBytes(problem);
  const int64_t bytes = scratch != nullptr ? NumElements(*scratch) : 0;
  VK_CHECK(bytes >= copy_bytes + plan.partial_bytes, "%s: scratch has %lld bytes, want %lld", kOp,
           static_cast<long long>(bytes), static_cast<long long>(copy_bytes + plan.partial_bytes));
  unsigned char* const memory = bytes > 0 ? static_cast<unsigned char*>(scratch->data) : nullptr;
  if (hopper) return RunHopper(kOp, problem, c->data, memory, stream);

  MarlinParams params = MakeParams(kOp, problem, plan, memory, stream);
  params.c = c->data;
  params.partials =
      plan.partial_bytes > 0 ? reinterpret_cast<float*>(memory + copy_bytes) : nullptr;
  params.locks = static_cast<int32_t*>(workspace->data);
  LaunchMarlin(kOp, MarlinKernels(problem.dtype == VK_BF16, problem.type)[plan.shape], params, plan,
               stream);
}

}  // namespace
}  // namespace vk::wna16

extern "C" {

vk_status vk_cuda_marlin_scratch(const vk_marlin_problem* problem, int64_t locks, int64_t* bytes) {
  return vk::Guard([&] {
    const auto checked = vk::wna16::CheckProblem(vk::wna16::kOp, problem);
    vk::wna16::CheckNoGroupIndex(checked);
    VK_CHECK(locks > 0, "%s: workspace is empty, want at least one int32, zero", vk::wna16::kOp);
    *bytes = vk::wna16::CopyBytes(checked);
    if (checked.m > 0 && !vk::wna16::OnHopper(checked)) {
      *bytes += vk::wna16::PlanOf(checked, locks).partial_bytes;
    }
  });
}

vk_status vk_cuda_marlin_gemm(const vk_tensor* c, const vk_marlin_problem* problem,
                              const vk_tensor* workspace, const vk_tensor* scratch, void* stream) {
  return vk::Guard(
      [&] { vk::wna16::Run(c, problem, workspace, scratch, static_cast<cudaStream_t>(stream)); });
}

int32_t vk_cuda_marlin_prefers_dequantize(const vk_marlin_problem* problem) {
  const bool act_order = problem->g_idx != nullptr && vk::NumElements(*problem->g_idx) > 0;
  if (vk::wna16::forced_shape >= 0) return 0;
  if (act_order && !problem->is_k_full) return 1;
  bool prefers = problem->m >= vk::wna16::kDequantizeTokens;
  if (prefers && problem->m < vk::wna16::kHopperDequantizeTokens) {
    // What is wrong with the problem is said when it is run.
    vk::Guard(
        [&] { prefers = !vk::wna16::OnHopper(vk::wna16::CheckProblem(vk::wna16::kOp, problem)); });
  }
  return prefers;
}

int32_t vk_cuda_marlin_force(int32_t shape, int32_t stages, int32_t blocks, int32_t prefetch) {
  vk::wna16::forced_shape = shape;
  vk::wna16::forced_stages = stages;
  vk::wna16::forced_blocks = blocks;
  vk::wna16::forced_prefetch = prefetch;
  return vk::wna16::kShapeCount;
}

}  // extern "C"
