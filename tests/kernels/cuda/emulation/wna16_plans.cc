// How products are cut for Hopper's kernels: every plan covers its product and fits the GPU.
#include <cstdio>
#include <initializer_list>

#include "cuda/wna16/large_experts/plan.h"
#include "cuda/wna16/large_m/plan.h"
#include "cuda/wna16/marlin/plan.h"
#include "cuda/wna16/small_m/plan.h"

namespace {

using namespace vk::cuda::wna16;  // NOLINT: everything here is about it

constexpr DeviceLimits kH100 = {132, 227 * 1024};
int failures = 0, checks = 0;

void Check(bool good, const char* what, int m, int n, int k, int type) {
  ++checks;
  if (good) return;
  ++failures;
  std::printf("%s: m %d, n %d, k %d, type %d\n", what, m, n, k, type);
}

void CheckSmallM(int m, int n, int k, int type) {
  const SmallMPlan plan = MakeSmallMPlan(m, n, k, static_cast<WeightType>(type), kH100);
  const auto check = [&](bool good, const char* what) { Check(good, what, m, n, k, type); };
  check(plan.blocks > 0 && plan.cluster > 0 && plan.blocks % plan.cluster == 0, "no clusters");
  check(plan.cluster <= 8, "a cluster that not every GPU has");
  check(static_cast<int64_t>(plan.chunks) * plan.cluster * 64 >= k, "K is not covered");
  check(plan.blocks / plan.cluster * 64 <= n + 192, "blocks without columns");
  check(plan.stages >= 2 && plan.stages <= kSmallMMaxStages, "stages");
  check(plan.stage_bytes % 1024 == 0, "stages that are not aligned");
  check(2 * (plan.shared_bytes + 1024) <= kH100.shared_bytes + 1024, "not two a multiprocessor");
  check(plan.threads <= 1024, "threads");
  check(plan.last_steps >= 1, "the next kernel is never let in early");
}

// Clusters that run at once on an H200, whose GPCs have 16 or 18 multiprocessors; and on a GPU of
// one GPC, where none of 8 fits.
constexpr LargeMClusters kClusters[] = {{{0, 132, 66, 42, 32, 24, 18, 16, 16}},
                                        {{0, 6, 3, 2, 1, 1, 1, 0, 0}}};

void CheckLargeM(int m, int n, int k, int type, const LargeMClusters& clusters) {
  const DeviceLimits device = {clusters.most[1], kH100.shared_bytes};
  const LargeMPlan plan = MakeLargeMPlan(m, n, k, static_cast<WeightType>(type), device, clusters);
  const auto check = [&](bool good, const char* what) { Check(good, what, m, n, k, type); };
  const int columns = plan.shape == 3 ? 256 : 128;  // of the shapes in plan.h
  int next = 0;
  for (int i = 0; i < plan.parts; ++i) {
    const LargeMPart& part = plan.part[i];
    check(part.first == next && part.tiles > 0, "tiles left out");
    next += part.tiles;
    check(part.cluster >= 1 && clusters.most[part.cluster] > 0, "clusters that the GPU has not");
    check(static_cast<int64_t>(part.chunks) * part.cluster * 64 >= k, "K is not covered");
    check(static_cast<int64_t>(part.chunks) * (part.cluster - 1) * 64 < k, "a block without K");
    check(part.cluster == 1 || part.chunks % 2 == 0, "chunks of one group in two blocks");
    check(i + 1 == plan.parts || part.tiles % device.sms == 0, "a wave that is not whole");
  }
  check(next == vk::cuda::CeilDiv(m, plan.tokens) * vk::cuda::CeilDiv(n, columns), "tiles");
  check((plan.shape < 2) == (m < 128), "weights that are rounded for few tokens alone, or not");
  check(plan.stages >= 2 && plan.stages <= kLargeMMaxStages, "stages");
  check(plan.shared_bytes <= kH100.shared_bytes, "shared memory");
}

// Few tiles and a long K occupy the GPU, as far as clusters of 8 let them.
void CheckLargeMFillsGpu() {
  for (int m : {64, 128, 256}) {
    for (int n : {2048, 3584, 4096, 5120, 8192}) {
      for (int k : {8192, 14336, 28672}) {
        const LargeMPlan plan = MakeLargeMPlan(m, n, k, WeightType::kU4B8, kH100, kClusters[0]);
        const LargeMPart& last = plan.part[plan.parts - 1];
        Check(last.tiles * last.cluster >= 64, "idle multiprocessors", m, n, k, 0);
      }
    }
  }
}

void CheckLargeExperts(int block, int n, int type) {
  const auto weights = static_cast<WeightType>(type);
  const LargeExpertsPlan plan = MakeLargeExpertsPlan(block, n, weights, kH100);
  const auto check = [&](bool good, const char* what) { Check(good, what, block, n, 0, type); };
  const int tokens[] = {32, 64};
  check(tokens[plan.shape] >= block, "places without a row of the tile");
  check(plan.shape == 0 || tokens[plan.shape - 1] < block, "a larger tile than the block needs");
  check(plan.n_tiles * 256 >= n && (plan.n_tiles - 1) * 256 < n, "columns");
  check(plan.stages >= 4 && plan.stages <= kLargeMMaxStages, "stages");
  check(plan.shared_bytes <= kH100.shared_bytes, "shared memory");
  check(plan.blocks == kH100.sms, "blocks");
}

// The kernel of 9.0 takes what fills most of the GPU by tiles of more than 16 places, and no groups
// that it cannot load.
void CheckLargeExpertsServe() {
  const auto serve = [](int rows, int count, int block, int n, int group, bool per_channel,
                        WeightType type = WeightType::kU4B8) {
    return LargeExpertsServe(ExpertTiles(rows, count, block), block, n, type, group, per_channel,
                             kH100);
  };
  Check(serve(128, 8, 32, 28672, 128, false), "eight experts of many columns", 128, 28672, 0, 0);
  Check(serve(128, 8, 32, 4096, 128, false), "128 tiles", 128, 4096, 0, 0);
  Check(!serve(64, 4, 32, 2048, 128, false), "32 tiles", 64, 2048, 0, 0);
  Check(!serve(128, 128, 16, 1536, 128, false), "tiles of 16", 128, 1536, 0, 0);
  Check(serve(2048, 128, 32, 1536, 128, false), "many experts", 2048, 1536, 0, 0);
  Check(serve(8192, 8, 64, 4096, 128, false), "many rows of an expert", 8192, 4096, 0, 0);
  Check(!serve(8192, 8, 64, 4096, 32, false), "groups of 32", 8192, 4096, 0, 0);
  Check(serve(8192, 8, 64, 4096, 14336, true), "scales per channel", 8192, 4096, 0, 0);
  for (const WeightType type : {WeightType::kMxFp4, WeightType::kNvFp4}) {
    const int group = Fp4Group(type);
    Check(serve(8192, 8, 64, 4096, group, false, type), "FP4", 8192, 4096, 0, 0);
    Check(SmallMServes(16, type, group, false), "FP4 for a few tokens", 16, 0, 0, 0);
    Check(LargeMServes(500, group, false, type, true), "FP4 for many tokens", 500, 0, 0, 0);
  }
}

// Seen on an H200, by rows of c: whether two blocks of Marlin's kernel share a multiprocessor.
void CheckMarlinExperts() {
  const auto blocks = [](int rows, int count, int n, int k, int64_t locks) {
    return MakeMarlinExpertPlan(8, ExpertTiles(rows, count, 8), n, k, WeightType::kU4B8, kH100,
                                locks)
        .blocks;
  };
  constexpr int kSms = kH100.sms, kLocks = 4 * kSms;
  Check(blocks(8, 128, 1536, 2048, kLocks) == kSms, "few steps", 8, 1536, 2048, 0);
  Check(blocks(8, 128, 2048, 768, kLocks) == kSms, "few steps", 8, 2048, 768, 0);
  Check(blocks(32, 128, 2048, 768, kLocks) == 2 * kSms, "two blocks", 32, 2048, 768, 0);
  Check(blocks(2, 8, 28672, 4096, kLocks) == 2 * kSms, "two blocks", 2, 28672, 4096, 0);
  Check(blocks(2, 8, 28672, 4096, kSms) == kSms, "locks", 2, 28672, 4096, 0);
  const MarlinPlan large =
      MakeMarlinExpertPlan(64, 1000, 4096, 4096, WeightType::kU4B8, kH100, kLocks);
  Check(large.blocks == kSms, "registers for one block", 64, 4096, 4096, 0);
}

}  // namespace

int main() {
  for (int type = 0; type < kWeightTypes; ++type) {
    for (int n : {64, 128, 192, 320, 4096, 5120, 8192, 14336, 28672}) {
      for (int k : {64, 128, 448, 1152, 4096, 8192, 28672}) {
        for (int m = 1; m <= kSmallMTokens; ++m) CheckSmallM(m, n, k, type);
        for (int m : {33, 64, 65, 127, 128, 129, 500, 2047}) {
          for (const LargeMClusters& clusters : kClusters) CheckLargeM(m, n, k, type, clusters);
        }
      }
    }
  }
  CheckLargeMFillsGpu();
  CheckLargeExpertsServe();
  CheckMarlinExperts();
  for (int type = 0; type < kWeightTypes; ++type) {
    for (int block : {1, 8, 16, 17, 32, 48, 64}) {
      for (int n : {64, 192, 256, 1536, 28672}) CheckLargeExperts(block, n, type);
    }
  }
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures == 0 ? 0 : 1;
}
