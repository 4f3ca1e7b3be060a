// Divides the keys of a batch among parts of equal cost, on the GPU, where the lengths are.
#ifndef VLLM_KERNELS_CUDA_MLA_CUTS_CUH_
#define VLLM_KERNELS_CUDA_MLA_CUTS_CUH_

#include <cstdint>

#include "cuda/common/cut.h"
#include "cuda/mla/works.cuh"

namespace vk::cuda::mla {

// Of an entry or a piece of one beside its pairs of stages: queries and results.
constexpr int32_t kEntryCost = 4;
constexpr int kScheduleThreads = 32 * (kEntryCost + 1);

struct PairsOf {
  const int32_t* lengths;
  int32_t most_keys;

  __device__ __forceinline__ int32_t operator()(int32_t entry) const {
    return Pairs(max(0, min(most_keys, lengths[entry])));
  }
};

// The entries of a warp's lanes from `first` on: their costs, summed up to each lane's.
struct Window {
  int32_t first, pairs;  // of the lane's entry
  int32_t end;           // costs of the window's entries up to the lane's

  __device__ __forceinline__ Window(const PairsOf& pairs_of, int32_t entries, int32_t from)
      : first(from) {
    const int32_t lane = threadIdx.x % 32;
    const bool there = first + lane < entries;
    pairs = there ? pairs_of(first + lane) : 0;
    end = there ? pairs + kEntryCost : 0;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int32_t below = __shfl_up_sync(0xffffffffu, end, distance);
      if (lane >= distance) end += below;
    }
  }
  __device__ __forceinline__ int32_t EndOf(int32_t index) const {
    const int32_t sum = __shfl_sync(0xffffffffu, end, max(0, index));
    return index < 0 ? 0 : sum;
  }
};

// A warp cuts, at cut(entry, unit), where parts take entries as long as they fit whole into
// `share`, and then as much of the next as fits: so entries are seldom divided where there are many
// of about one length, and no piece is small. Ends after `most` cuts.
template <class OnCut>
__device__ __forceinline__ void CutAll(const PairsOf& pairs_of, int32_t entries, int64_t share,
                                       int32_t most, const OnCut& on_cut) {
  const int32_t lane = threadIdx.x % 32;
  int64_t left = share;  // of the part's
  int32_t cuts = 0;
  for (int32_t first = 0; first < entries && cuts < most; first += 32) {
    const Window window(pairs_of, entries, first);
    const int32_t there = min(32, entries - first);
    int32_t before = 0;  // costs of the window that parts have taken
    while (cuts < most) {
      // Whole entries, and the rest of one that is begun.
      const bool fits = lane < there && window.end - before <= left;
      const int32_t taken = __popc(__ballot_sync(0xffffffffu, fits));
      const int32_t end = window.EndOf(taken - 1);
      if (end > before) {
        left -= end - before;
        before = end;
      }
      if (taken == there) break;
      before += static_cast<int32_t>(max(int64_t{0}, left - kEntryCost));
      on_cut(cuts++, first + taken, before - end);
      left = share;
    }
  }
}

// One block writes parts + 1 cuts. With the average of the costs and kEntryCost more as their share
// the parts always reach; each warp tries another one down to the average, the least counts.
static __global__ void __launch_bounds__(kScheduleThreads)
    ScheduleKernel(const PairsOf pairs_of, int32_t entries, int32_t parts, Cut* schedule) {
  extern __shared__ char unaligned[];
  auto* reaches = reinterpret_cast<bool*>(unaligned);
  const int32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int64_t total = 0;
  for (int32_t entry = lane; entry < entries; entry += 32) total += pairs_of(entry) + kEntryCost;
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    total += __shfl_xor_sync(0xffffffffu, total, distance);
  }
  const int64_t share = max(int64_t{kEntryCost} + 1, (total + parts - 1) / parts + warp);
  int32_t needed = 1;
  CutAll(pairs_of, entries, share, parts, [&](int32_t, int32_t, int32_t) { ++needed; });
  if (lane == 0) reaches[warp] = needed <= parts;
  __syncthreads();
  int32_t chosen = 0;
  while (chosen < kEntryCost && !reaches[chosen]) ++chosen;
  if (warp != chosen) return;
  for (int32_t cut = lane; cut <= parts; cut += 32) schedule[cut] = {cut == 0 ? 0 : entries, 0};
  __syncwarp();
  CutAll(pairs_of, entries, share, parts - 1, [&](int32_t index, int32_t entry, int32_t unit) {
    if (lane == 0) schedule[index + 1] = {entry, unit};
  });
}

}  // namespace vk::cuda::mla
#endif  // VLLM_KERNELS_CUDA_MLA_CUTS_CUH_
