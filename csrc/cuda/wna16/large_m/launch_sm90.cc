#include <atomic>

#include "cuda/common/launch.h"
#include "cuda/sm90/tensor_map.h"
#include "cuda/wna16/common/kernel_tables.h"
#include "cuda/wna16/common/launch.h"
#include "cuda/wna16/common/scale_map.h"
#include "cuda/wna16/large_m/plan.h"
#include "cuda/wna16/select.h"

namespace vk::cuda::wna16 {
namespace {

// Asked of the driver once a device: every instance has a block a multiprocessor.
LargeMClusters ClustersOf(const char* op, const void* kernel, LaunchConfig launch) {
  static std::atomic<int> known[kMaxDevices][kLargeMMaxCluster + 1];  // and one; 0: not asked yet
  LargeMClusters clusters{};
  const Device& device = CurrentDevice(op);
  clusters.most[1] = device.multiprocessors;
  for (int blocks = 2; blocks <= kLargeMMaxCluster; ++blocks) {
    std::atomic<int>& entry = known[device.index][blocks];
    int most = entry.load(std::memory_order_relaxed) - 1;
    if (most < 0) {
      launch.grid = launch.cluster = dim3(static_cast<unsigned>(blocks));
      most = MaxActiveClusters(op, kernel, launch);
      entry.store(most + 1, std::memory_order_relaxed);
    }
    clusters.most[blocks] = most;
  }
  return clusters;
}

}  // namespace

void RunLargeM(const char* op, const Problem& problem, void* c, void* memory, cudaStream_t stream) {
  const DeviceLimits limits = LimitsOf(op);
  const KernelTable kernels = LargeMKernels(problem.dtype == VK_BF16, problem.type);
  LaunchConfig config{};
  config.stream = stream;
  config.pdl = true;
  config.block = dim3(LargeMShape<64, 1, true>::kThreads);
  config.shared_bytes = limits.shared_bytes;
  const LargeMPlan plan = MakeLargeMPlan(problem.m, problem.n, problem.k, problem.type, limits,
                                         ClustersOf(op, kernels[0], config));
  const Activations activations = PrepareActivations(op, problem, memory, stream);
  auto params = WithOperands<LargeMParams>(problem, c);
  params.stages = plan.stages;
  params.even_groups = HasEvenGroups(problem.group, problem.per_channel != 0);
  CUtensorMap map =
      sm90::EncodeTensorMap<2>(op, activations.a, sm90::Float16MapType(problem.dtype == VK_BF16),
                               {static_cast<uint64_t>(problem.k), static_cast<uint64_t>(problem.m)},
                               {activations.lda * 2}, {64, static_cast<uint32_t>(plan.tokens)});
  CUtensorMap scales = Fp4ScaleMap(op, problem, 1, plan.columns, 1);
  config.block = dim3(static_cast<unsigned>(plan.threads));
  config.shared_bytes = plan.shared_bytes;
  for (int i = 0; i < plan.parts; ++i) {
    const LargeMPart& part = plan.part[i];
    params.first_tile = part.first;
    params.chunks = part.chunks;
    config.grid = dim3(static_cast<unsigned>(part.tiles * part.cluster));
    config.cluster = dim3(static_cast<unsigned>(part.cluster));
    void* arguments[] = {&params, &map, &scales};
    LaunchKernel(op, kernels[plan.shape], config, arguments);
  }
}

}  // namespace vk::cuda::wna16
