#include "cuda/wna16/select.h"

#include "cuda/common/launch.h"
#include "cuda/wna16/common/launch.h"
#include "cuda/wna16/large_experts/plan.h"
#include "cuda/wna16/large_m/plan.h"
#include "cuda/wna16/small_m/plan.h"

namespace vk::cuda::wna16 {
namespace {

#ifdef VK_WNA16_SM90
constexpr bool kHasSm90 = true;
#else
constexpr bool kHasSm90 = false;
#endif

// From so many tokens on, the tensor cores pay for weights that are dequantized to memory first;
// later where a kernel for 9.0 serves the GEMM.
constexpr int64_t kDequantizeTokens = 256, kSm90DequantizeTokens = 2048;

// Whether the kernels for 9.0 run here.
bool RunsSm90(const char* op) { return kHasSm90 && CurrentDevice(op).capability == 90; }

}  // namespace

Algorithm Select(const char* op, const Problem& problem) {
  if (!RunsSm90(op) || problem.g_idx != nullptr) return Algorithm::kMarlin;
  const bool per_channel = problem.per_channel != 0;
  if (SmallMServes(problem.m, problem.type, problem.group, per_channel)) return Algorithm::kSmallM;
  if (LargeMServes(problem.m, problem.group, per_channel, problem.type, problem.dtype == VK_F16)) {
    return Algorithm::kLargeM;
  }
  return Algorithm::kMarlin;
}

bool PrefersDequantize(const char* op, const vk_marlin_problem& problem) {
  const bool act_order = problem.g_idx != nullptr && NumElements(*problem.g_idx) > 0;
  if (act_order && !problem.is_k_full) return true;
  bool prefers = problem.m >= kDequantizeTokens;
  if (prefers && problem.m < kSm90DequantizeTokens) {
    // A malformed problem is reported by the call that runs it.
    Guard([&] { prefers = Select(op, CheckProblem(op, &problem)) == Algorithm::kMarlin; });
  }
  return prefers;
}

bool SelectsLargeExperts(const char* op, const Problem& problem, const MarlinExpertParams& experts,
                         int64_t m_tiles, int64_t places) {
  return RunsSm90(op) && LargeExpertsTokenBytes(places, problem.k) <= kLargeExpertsMostBytes &&
         LargeExpertsServe(m_tiles, experts.block, problem.n, problem.type, problem.group,
                           problem.per_channel != 0, LimitsOf(op));
}

#ifndef VK_WNA16_SM90

void RunSmallM(const char*, const Problem&, void*, void*, cudaStream_t) {}
void RunLargeM(const char*, const Problem&, void*, void*, cudaStream_t) {}
void RunLargeExperts(const char*, const Problem&, const MarlinExpertParams&, int64_t, int64_t,
                     void*, void*, cudaStream_t) {}

#endif

}  // namespace vk::cuda::wna16
