#include "cuda/gemm/few_rows.h"

#include <algorithm>

#include "cuda/gemm/rounds.h"

namespace vk::cuda::gemm {
namespace {

// More rows are those of gemm_sm90.cuh.
constexpr int64_t kMostRows = 256;

// Nanoseconds on an H200: a chunk of K, by rows of the tile, and the rest; a cluster's more.
// Weights come at 4.2 bytes a picosecond (4.2 TB/s).
constexpr int kChunk[] = {165, 175, 220};
constexpr int kRest = 2500, kCluster = 400;

// Clusters of which each block has a multiprocessor of its own. A cluster lies within one GPC,
// which leaves some multiprocessors over (of 132: 39 clusters of 3, 17 of 6, 15 of 8).
int64_t ClustersAtOnce(int cluster, int multiprocessors) {
  return cluster <= 2 ? multiprocessors / cluster : multiprocessors * 4 / 5 / cluster;
}

// Of the tiles of gemm_sm90.cuh, as seen there: a chunk of K of a round of the smaller ones, and
// the rest.
constexpr int kOtherChunk = 300, kOtherRest = 2200;

int64_t OtherTime(int64_t m, int64_t n, int64_t chunks, int64_t multiprocessors) {
  return kOtherRest + chunks * kOtherChunk * TileRounds(m, n, multiprocessors) / 2;
}

}  // namespace

FewRowsPlan PlanFewRows(int64_t m, int64_t n, int64_t k, int multiprocessors) {
  FewRowsPlan plan{};
  if (m > kMostRows) return plan;
  const int shape = m <= 16 ? 0 : m <= 32 ? 1 : 2;
  plan.rows = kFewRowsTiles[shape];
  plan.m_tiles = static_cast<int>(CeilDiv(m, plan.rows));
  plan.tiles = plan.m_tiles * static_cast<int>(CeilDiv(n, kFewRowsColumns));
  // More blocks than multiprocessors were slower than the other tiles.
  if (plan.tiles > multiprocessors) return {};
  const int64_t chunks = CeilDiv(k, kFewRowsDepth);
  for (int cluster = 1; cluster <= kFewRowsMaxCluster; ++cluster) {
    const int64_t each = CeilDiv(chunks, cluster);
    if (plan.tiles > ClustersAtOnce(cluster, multiprocessors)) break;
    if (each * (cluster - 1) >= chunks) continue;  // a block without K
    plan.cluster = cluster;
    plan.chunks = static_cast<int>(each);
  }
  plan.time = kRest + std::max<int64_t>(int64_t{plan.chunks} * kChunk[shape], n * k / 4200) +
              (plan.cluster > 1 ? kCluster : 0);
  // Estimates: where they are near each other, the tiles of gemm_sm90.cuh stay. Of up to 32 rows
  // these were the slower ones wherever they were measured.
  const int64_t other = OtherTime(m, n, chunks, multiprocessors);
  if (shape == 2 ? 5 * plan.time >= 4 * other : plan.time >= other) return {};
  return plan;
}

}  // namespace vk::cuda::gemm
