// How a collective is cut: plain arithmetic, testable without a GPU. Every rank of a call must come
// to the same plan, so it depends on nothing but the message and the number of ranks.
#ifndef VLLM_KERNELS_CUDA_ALL_REDUCE_PLAN_H_
#define VLLM_KERNELS_CUDA_ALL_REDUCE_PLAN_H_

#include <algorithm>
#include <cstdint>

#include "cuda/common/divide.h"

namespace vk::cuda::all_reduce {

constexpr int kMaxRanks = 8;
constexpr int kMaxBlocks = 64;
constexpr int kThreads = 512;
constexpr int kVectorBytes = 16;

// Vectors that a thread has on their way from each peer: about as many bytes for any number of
// ranks.
constexpr int Unroll(int ranks) { return ranks <= 2 ? 4 : ranks <= 4 ? 2 : 1; }

struct Plan {
  int blocks;
  bool two_shot;
};

// One shot: every rank reads everything of every peer, and waits for the others twice. Two shots: a
// rank reads its share of every peer, then the others' sums: 2 (ranks - 1) / ranks of the message
// over its links instead of ranks - 1, and one more meeting. With two ranks both move the same.
inline Plan PlanAllReduce(int64_t bytes, int ranks) {
  Plan plan{};
  plan.two_shot = ranks > 2 && bytes >= (ranks <= 4 ? int64_t{512} << 10 : int64_t{256} << 10);
  const int64_t vectors = CeilDiv(bytes, kVectorBytes);
  const int64_t work = plan.two_shot ? CeilDiv(vectors, ranks) : vectors;
  plan.blocks = static_cast<int>(std::clamp<int64_t>(CeilDiv(work, kThreads), 1, kMaxBlocks));
  return plan;
}

// For gathering and scattering, by the vectors of a rank's share.
inline int BlocksOfShare(int64_t vectors) {
  return static_cast<int>(std::clamp<int64_t>(CeilDiv(vectors, kThreads), 1, kMaxBlocks));
}

}  // namespace vk::cuda::all_reduce
#endif  // VLLM_KERNELS_CUDA_ALL_REDUCE_PLAN_H_
