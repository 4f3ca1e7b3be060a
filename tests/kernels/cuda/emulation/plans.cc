// How work is cut for GPUs of several generations, without one: splits of decode attention,
// sections of prefill, the sort by expert, tiles of FP8 products by blocks.
#include <cstdio>
#include <utility>

#include "cuda/attention/split.h"
#include "cuda/gemm/blocks_plan.h"
#include "cuda/gemm/few_rows.h"
#include "cuda/gemm/rounds.h"
#include "cuda/moe_gemm/blocks_plan.h"
#include "cuda/moe_routing/by_expert.h"

namespace {

constexpr int kMultiprocessors[] = {40, 78, 108, 132, 142, 148, 188};  // 7.5 to 12.0
int failures = 0, checks = 0;

void Check(bool good, const char* what, int64_t a, int64_t b, int64_t c) {
  ++checks;
  if (good) return;
  ++failures;
  std::printf("%s: %lld, %lld, %lld\n", what, static_cast<long long>(a), static_cast<long long>(b),
              static_cast<long long>(c));
}

void CheckSplits() {
  using namespace vk::cuda::attention;  // NOLINT: everything here is about it
  for (const int64_t sms : kMultiprocessors) {
    for (const int64_t blocks : {1, 2, 3, 8, 40, 130, 500, 4000}) {
      for (const int64_t keys : {1, 100, 512, 2048, 8192, 131072, 1 << 20}) {
        const int64_t slots = 2 * sms;
        const SplitPlan plan = PlanSplits(blocks, slots, keys, 16, 4);
        const int64_t tiles = vk::cuda::CeilDiv(keys, 16);
        const int64_t each = SplitLength(static_cast<int32_t>(tiles), plan.splits, plan.min_tiles);
        const int64_t used = vk::cuda::CeilDiv(tiles, each);
        Check(plan.splits >= 1 && plan.splits <= kMaxSplits, "splits", sms, blocks, keys);
        Check(used <= plan.splits, "more splits than are planned", sms, blocks, keys);
        Check(plan.splits == 1 || plan.min_tiles >= 4, "warps without a tile", sms, blocks, keys);
        // A long request alone occupies the multiprocessors, as far as the merge is worth it.
        if (keys >= 131072) {
          Check(blocks * used >= sms || used >= 100, "idle multiprocessors", sms, blocks, keys);
        }
        // Keys enough for 128 splits of one wave leave no room for one more.
        if (keys >= 131072 && plan.splits < 128 && blocks * plan.splits <= slots) {
          Check(blocks * (plan.splits + 1) > slots, "idle slots", sms, blocks, keys);
        }
        if (blocks >= slots && keys <= 1024) {
          Check(plan.splits == 1, "splits of a full GPU", sms, blocks, keys);
        }
      }
    }
  }
}

// Prefill's sections of heads are even, and about what half of the L2 holds.
void CheckSections() {
  using vk::cuda::attention::SectionHeads;
  constexpr int64_t kMib = 1 << 20, kL2 = 60 * kMib;
  for (const int64_t l2 : {4 * kMib, 40 * kMib, 50 * kMib, kL2, 126 * kMib}) {
    for (const int heads : {1, 2, 3, 5, 8, 16, 17, 32, 96}) {
      for (const int64_t bytes : {int64_t{512}, kMib / 3, 2 * kMib, 8 * kMib, 200 * kMib}) {
        const int64_t each = SectionHeads(heads, bytes, l2);
        const int64_t sections = vk::cuda::CeilDiv(heads, each);
        Check(each >= 1 && each <= heads, "heads of a section", heads, bytes, l2);
        Check(sections * each - heads < sections, "uneven sections", heads, bytes, l2);
        Check(each == 1 || (each - 1) * bytes < l2 / 2 + l2 / 16, "too large", heads, bytes, l2);
      }
    }
  }
  // 4096 and 16384 keys of 128 + 128 columns: 2 and 8 MiB a head.
  Check(SectionHeads(16, 2 * kMib, kL2) == 16, "one section", 16, 2, 60);
  Check(SectionHeads(24, 2 * kMib, kL2) == 12, "two halves", 24, 2, 60);
  Check(SectionHeads(8, 8 * kMib, kL2) == 4, "two halves", 8, 8, 60);
}

void CheckSort() {
  using namespace vk::cuda::moe_routing;  // NOLINT: everything here is about it
  for (const int sms : kMultiprocessors) {
    for (const int buckets : {1, 8, 129, 1025}) {
      for (const int64_t entries : {0, 1, 511, 512, 4097, 9000, 16384}) {
        const ByExpertPlan plan = PlanByExpert(entries, buckets, sms);
        const int64_t share = int64_t{plan.threads} * plan.vectors * kByExpertVector;
        Check(plan.blocks >= 1 && plan.blocks <= buckets, "blocks", sms, buckets, entries);
        Check(plan.threads % 32 == 0 && plan.threads <= kByExpertMaxThreads, "threads", sms,
              buckets, entries);
        Check(share >= entries, "entries without a thread", sms, buckets, entries);
        Check(2 * share + 4 * buckets <= 44 * 1024, "shared memory", sms, buckets, entries);
      }
    }
  }
}

// Seen on an H200: which tile was the faster one.
void CheckRounds() {
  using vk::cuda::gemm::FewRowsAreFaster;
  for (const auto& [m, n] : {std::pair{1, 2112}, {64, 24576}, {128, 8960}, {256, 2112}}) {
    Check(FewRowsAreFaster(m, n, 132), "tiles of 64 rows are faster", m, n, 132);
  }
  for (const auto& [m, n] : {std::pair{512, 2112}, {512, 4096}, {256, 7168}, {2048, 4096}}) {
    Check(!FewRowsAreFaster(m, n, 132), "tiles of 128 rows are faster", m, n, 132);
  }
  // A GPU with fewer multiprocessors takes more rounds of the same tiles.
  Check(FewRowsAreFaster(128, 9984, 78), "one round of 64 rows", 128, 9984, 78);
}

// FP8 by blocks for few rows: every chunk of K and every tile has a block, and where the tiles of
// other kernels fill the GPU these serve.
void CheckFewRows() {
  using namespace vk::cuda::gemm;  // NOLINT: everything here is about it
  for (const int sms : {78, 132}) {
    for (const int64_t m : {1, 16, 17, 33, 64, 65, 250, 256, 257}) {
      for (const int64_t n : {16, 576, 2112, 4096, 24576}) {
        for (const int64_t k : {16, 512, 1536, 7168, 18432}) {
          const FewRowsPlan plan = PlanFewRows(m, n, k, sms);
          if (plan.rows == 0) {
            ++checks;
            continue;
          }
          const int64_t chunks = vk::cuda::CeilDiv(k, kFewRowsDepth);
          const int64_t columns = vk::cuda::CeilDiv(n, kFewRowsColumns);
          Check(plan.cluster >= 1 && plan.cluster <= kFewRowsMaxCluster, "cluster", m, n, k);
          Check(plan.chunks * plan.cluster >= chunks, "chunks without a block", m, n, k);
          Check(plan.chunks * (plan.cluster - 1) < chunks, "a block without chunks", m, n, k);
          Check(int64_t{plan.m_tiles} * plan.rows >= m, "rows without a tile", m, n, k);
          Check(plan.tiles == plan.m_tiles * columns, "tiles", m, n, k);
          Check(m <= 256, "many rows", m, n, k);
        }
      }
    }
  }
  // Seen on an H200: the fastest cluster, and where other tiles are faster.
  Check(PlanFewRows(1, 2112, 7168, 132).cluster == 3, "33 tiles", 1, 2112, 7168);
  Check(PlanFewRows(64, 2112, 7168, 132).cluster == 3, "33 tiles of 64 rows", 64, 2112, 7168);
  Check(PlanFewRows(128, 2112, 7168, 132).cluster == 2, "66 tiles", 128, 2112, 7168);
  Check(PlanFewRows(256, 2112, 7168, 132).cluster == 1, "132 tiles", 256, 2112, 7168);
  Check(PlanFewRows(64, 4096, 7168, 132).cluster == 2, "64 tiles", 64, 4096, 7168);
  Check(PlanFewRows(1, 7168, 16384, 132).cluster == 1, "112 tiles", 1, 7168, 16384);
  Check(PlanFewRows(1, 7168, 2048, 132).rows == 16, "short k", 1, 7168, 2048);
  Check(PlanFewRows(32, 7168, 2048, 132).rows == 32, "short k", 32, 7168, 2048);
  Check(PlanFewRows(1, 8192, 4096, 132).rows == 16, "128 tiles", 1, 8192, 4096);
  Check(PlanFewRows(64, 7168, 2048, 132).rows == 0, "64 rows, short k", 64, 7168, 2048);
  Check(PlanFewRows(256, 4096, 7168, 132).rows == 0, "256 tiles", 256, 4096, 7168);
  Check(PlanFewRows(16, 24576, 1536, 132).rows == 0, "384 tiles", 16, 24576, 1536);
  Check(PlanFewRows(64, 32768, 512, 132).rows == 0, "512 tiles", 64, 32768, 512);
}

// FP8 by blocks for many rows: every tile has a round, and as seen on an H200.
void CheckBlocksOfManyRows() {
  using namespace vk::cuda::gemm;  // NOLINT: everything here is about it
  for (const int sms : {78, 132}) {
    for (const int64_t m : {1, 64, 65, 128, 250, 512, 4096}) {
      for (const int64_t n : {16, 2112, 4096, 32768}) {
        for (const int64_t k : {16, 128, 144, 512, 7168}) {
          const BlocksTile tile = PlanBlocks(m, n, k, sms);
          if (tile.columns == 0) {
            ++checks;
            continue;
          }
          const int64_t blocks = vk::cuda::CeilDiv(m, 128) * vk::cuda::CeilDiv(n, tile.columns);
          Check(m > 64, "few rows", m, n, k);
          Check(tile.split == 1 || (k > 128 && blocks * tile.split <= sms), "k in two", m, n, k);
          Check(tile.split == 1 || tile.columns == 64, "what is compiled", m, n, k);
        }
      }
    }
  }
  const auto seen = [](int64_t m, int64_t k, int64_t n, int columns, int split) {
    const BlocksTile tile = PlanBlocks(m, n, k, 132);
    Check(tile.columns == columns && (columns == 0 || tile.split == split), "tile", m, n, k);
  };
  seen(128, 7168, 4096, 64, 2);
  seen(256, 7168, 2112, 64, 2);
  seen(256, 7168, 4096, 64, 1);
  seen(512, 7168, 2112, 64, 1);
  seen(512, 1536, 24576, 256, 1);
  seen(2048, 1536, 24576, 256, 1);
  seen(2048, 512, 32768, 256, 1);
  seen(2048, 7168, 4096, 256, 1);
  seen(4096, 2048, 7168, 256, 1);
  seen(256, 2048, 7168, 0, 1);
  seen(4096, 7168, 2112, 192, 1);
  seen(INT32_MAX - 256, 16, 16, 64, 1);  // the most rows that the kernel counts
  seen(INT32_MAX - 255, 16, 16, 0, 1);
}

// Experts' products with scales of blocks: a tile of tokens is a part of the rows that have one
// label, and one of twice as many weights has them all.
void CheckBlocks() {
  using namespace vk::cuda::moe_gemm;  // NOLINT: everything here is about it
  const auto compiled = [](const BlocksPlan& plan, int64_t n, int64_t about) {
    const int32_t w = plan.weights;
    const bool whole = w == 128 || (w == 256 && n % 256 == 0);
    Check(plan.tokens == kRowTokens ? w == 192 || w == 128 || w == 256 : whole, "tile", n, about,
          plan.tokens);
  };
  for (const int64_t n : {128, 384, 2112, 4096}) {
    for (const int64_t alignment : {16, 48, 64, 128, 192, 256}) {
      const BlocksPlan plan = PlanLabelled(4096, n, 7168, alignment, 132);
      Check(alignment % plan.tokens == 0, "tokens of two labels", alignment, n, 0);
      compiled(plan, n, alignment);
    }
    for (const int64_t expected : {-1, 0, 1, 16, 17, 100, 5000}) {
      const BlocksPlan plan = PlanCounted(8, n, 7168, expected, 132);
      Check(plan.tokens >= 16 && plan.tokens <= 128, "tokens", expected, n, 0);
      compiled(plan, n, expected);
    }
  }
  // Rounds of an H200: 16 columns of 256 or 22 of 192 in full ones, and what is left of a round.
  const auto weights = [](int64_t tiles, int64_t n, int64_t k) {
    return PlanRows(tiles, n, k, 132).weights;
  };
  Check(weights(33, 4096, 7168) == 256, "4 rounds for 6", 33, 4096, 7168);
  Check(weights(36, 4096, 7168) == 192, "6 rounds for 5", 36, 4096, 7168);
  Check(weights(32, 2112, 7168) == 192, "3 rounds for 3", 32, 2112, 7168);
  Check(weights(1, 128, 128) == 128, "one tile", 1, 128, 128);
}

}  // namespace

int main() {
  CheckSplits();
  CheckSections();
  CheckSort();
  CheckRounds();
  CheckFewRows();
  CheckBlocksOfManyRows();
  CheckBlocks();
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures == 0 ? 0 : 1;
}
