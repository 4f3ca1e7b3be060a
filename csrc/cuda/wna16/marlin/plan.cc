#include "cuda/wna16/marlin/plan.h"

#include <algorithm>

namespace vk::cuda::wna16 {
namespace {

template <class S>
constexpr MarlinShapeInfo Info() {
  return {S::kTokenTiles,
          S::kWarpsN,
          S::kWarpsK,
          S::kTokens,
          S::kN,
          S::kK,
          S::kThreads,
          S::kBlocksPerSm,
          S::kTokens * S::kN * 4,
          kStageBytes<MarlinStage, S>,
          sizeof(MarlinSums<S>)};
}

// With this much in flight, more stages only take longer to fill.
constexpr int kInFlightBytes = 64 * 1024;
// Stages of each of two blocks that share an SM.
constexpr int kStagesOfTwo = 3;
// Weights that a block prefetches to L2 before its dependencies are met.
constexpr int kPrefetchBytes = 64 * 1024;
// A block with fewer steps is not worth the addition of its sums.
constexpr int kMinBlockSteps = 2;

// As many steps of experts are worth a second block on an SM.
constexpr int kExpertBlockSteps = 4;

// The fewest token tiles that hold `m`, in the first shape of that many.
int ChooseShape(int m) {
  const int wanted = m <= 8 ? 1 : m <= 16 ? 2 : m <= 32 ? 4 : 8;
  for (int shape = 0; shape < kMarlinShapeCount; ++shape) {
    if (kMarlinShapes[shape].token_tiles == wanted) return shape;
  }
  return 0;
}

// Shares that end where tiles end save additions; worth up to a 16th of the time.
int RoundShare(int share, int k_steps) {
  const int limit = share + share / 16;
  for (int rounded = share; rounded <= limit; ++rounded) {
    if (k_steps % rounded == 0 || rounded % k_steps == 0) return rounded;
  }
  return share;
}

// Stages of the pipeline, and the shared memory that follows from them.
void ReserveShared(MarlinPlan& plan, WeightType type, int shared_bytes, int forced_stages) {
  const MarlinShapeInfo& shape = kMarlinShapes[plan.shape];
  const int stage_bytes = shape.stage_bytes[static_cast<int>(type)];
  const int fitting = (shared_bytes - shape.rest_bytes) / stage_bytes;
  const int wanted = forced_stages > 0 ? forced_stages : 1 + CeilDiv(kInFlightBytes, stage_bytes);
  plan.stages = std::max(2, std::min({wanted, fitting, kMarlinMaxStages}));
  plan.shared_bytes = plan.stages * stage_bytes + shape.rest_bytes;
}

// What a block may use where two share an SM: each is charged 1 KiB more.
int HalfShared(const DeviceLimits& device) { return (device.shared_bytes - 1024) / 2; }

// Whether two blocks with at least kStagesOfTwo stages fit an SM. They fill the gaps in each
// other's work, and a kernel launched early (PDL) spreads evenly over what the one before it leaves
// free.
bool FitsTwice(const MarlinShapeInfo& shape, WeightType type, const DeviceLimits& device) {
  return shape.blocks_per_sm >= 2 &&
         kStagesOfTwo * shape.stage_bytes[static_cast<int>(type)] + shape.rest_bytes <=
             HalfShared(device);
}

}  // namespace

#define VK_WNA16_INFO(tokens, n, k) Info<MarlinShape<tokens, n, k>>(),
extern const MarlinShapeInfo kMarlinShapes[] = {VK_WNA16_MARLIN_SHAPES(VK_WNA16_INFO)};
#undef VK_WNA16_INFO
extern const int kMarlinShapeCount = sizeof(kMarlinShapes) / sizeof(kMarlinShapes[0]);

MarlinPlan MakeMarlinPlan(int m, int n, int k, WeightType type, const DeviceLimits& device,
                          int64_t locks, const MarlinPlanOverride& force) {
  MarlinPlan plan{};
  plan.shape = force.shape >= 0 && force.shape < kMarlinShapeCount ? force.shape : ChooseShape(m);
  const MarlinShapeInfo& shape = kMarlinShapes[plan.shape];
  plan.m_tiles = CeilDiv(m, shape.tokens);
  plan.n_tiles = CeilDiv(n, shape.n);
  plan.k_steps = CeilDiv(k, shape.k);
  const int tiles = plan.m_tiles * plan.n_tiles;
  plan.steps = tiles * plan.k_steps;

  plan.lock_by_tile = tiles <= locks;
  const bool twice = FitsTwice(shape, type, device) && plan.lock_by_tile;
  int blocks = force.blocks > 0 ? force.blocks : twice ? 2 * device.sms : device.sms;
  if (!plan.lock_by_tile) blocks = static_cast<int>(std::min<int64_t>(blocks, locks));
  int share = CeilDiv(plan.steps, blocks);
  share = std::max(share, std::min(kMinBlockSteps, plan.k_steps));
  plan.block_steps = RoundShare(share, plan.k_steps);
  plan.blocks = CeilDiv(plan.steps, plan.block_steps);

  const int stages = force.stages > 0 ? force.stages : twice ? kStagesOfTwo : -1;
  ReserveShared(plan, type, device.shared_bytes, stages);
  const int step_bytes = shape.n * shape.k * Bits(type) / 8;
  // Where two blocks fit an SM but the plan has one, an early launch (PDL) would put two on some
  // SMs.
  const bool alone = shape.blocks_per_sm < 2 || plan.shared_bytes > HalfShared(device);
  plan.pdl = force.prefetch == -1 ? twice || alone : force.prefetch >= 0;
  plan.prefetch_steps = force.prefetch == -1 ? kPrefetchBytes / step_bytes : force.prefetch;
  plan.partial_bytes = plan.block_steps % plan.k_steps == 0
                           ? 0
                           : 2 * static_cast<int64_t>(plan.blocks) * shape.tile_bytes;
  return plan;
}

MarlinPlan MakeMarlinExpertPlan(int block, int64_t m_tiles, int n, int k, WeightType type,
                                const DeviceLimits& device, int64_t locks) {
  MarlinPlan plan{};
  plan.shape = ChooseShape(block);
  const MarlinShapeInfo& shape = kMarlinShapes[plan.shape];
  plan.n_tiles = CeilDiv(n, shape.n);
  plan.k_steps = CeilDiv(k, shape.k);
  const int64_t steps = m_tiles * plan.n_tiles * plan.k_steps;
  const bool twice = FitsTwice(shape, type, device) && locks >= 2 * device.sms &&
                     steps >= int64_t{2} * device.sms * kExpertBlockSteps;
  plan.blocks = static_cast<int>(std::min<int64_t>(twice ? 2 * device.sms : device.sms, locks));
  ReserveShared(plan, type, device.shared_bytes, twice ? kStagesOfTwo : -1);
  plan.partial_bytes = 2 * static_cast<int64_t>(plan.blocks) * shape.tile_bytes;
  return plan;
}

}  // namespace vk::cuda::wna16
