// What the checks (all_reduce.cc) hand to the launchers (all_reduce.cu).
#ifndef VLLM_KERNELS_CUDA_ALL_REDUCE_LAUNCH_H_
#define VLLM_KERNELS_CUDA_ALL_REDUCE_LAUNCH_H_

#include "cuda/all_reduce/plan.h"
#include "cuda/common/launch.h"

namespace vk::cuda::all_reduce {

// Where ranks meet, at the start of each rank's shared buffer; zero at first, and counting for as
// long as the buffer lives. The sums of the two-shot kernel follow it.
struct Signals {
  uint32_t arrived[kMaxBlocks][kMaxRanks];   // by each peer: how many meetings it has come to
  alignas(128) uint32_t passed[kMaxBlocks];  // this rank's own count, for each block
};
static_assert(sizeof(Signals) % 128 == 0);

// One buffer as this rank sees it of each rank, in device memory: a graph's are known only after it
// was captured.
struct Peers {
  void* data[kMaxRanks];
};

struct Problem {
  Signals* signals[kMaxRanks];
  const Peers* peers;
  const void* input;
  void* output;
  // In vectors of 16 bytes: of the message; or of one rank's share, where a collective gathers or
  // scatters.
  int64_t vectors;
  int rank;
};

// Sums over ranks. `staged`: the input is first copied to where peers read it; else they read the
// input itself.
void LaunchAllReduce(const char* op, int32_t dtype, int ranks, bool staged, const Plan& plan,
                     const Problem& problem, cudaStream_t stream);
// Both staged.
void LaunchReduceScatter(const char* op, int32_t dtype, int ranks, const Problem& problem,
                         cudaStream_t stream);
void LaunchAllGather(const char* op, int ranks, const Problem& problem, cudaStream_t stream);

}  // namespace vk::cuda::all_reduce
#endif  // VLLM_KERNELS_CUDA_ALL_REDUCE_LAUNCH_H_
