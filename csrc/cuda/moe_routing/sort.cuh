// Stable counting sorts of entries by expert: what they are sorted for, and what is written of
// them.
#ifndef VLLM_KERNELS_CUDA_MOE_ROUTING_SORT_CUH_
#define VLLM_KERNELS_CUDA_MOE_ROUTING_SORT_CUH_

#include <cstdint>
#include <type_traits>

#include "cuda/moe_routing/launch.h"

namespace vk::cuda::moe_routing {

struct Align {
  static constexpr bool kTail = false;
  static __device__ __forceinline__ int Padded(const Sort& sort, int count) {
    return (count + sort.block_size - 1) / sort.block_size * sort.block_size;
  }
};
struct Permutation {
  static constexpr bool kTail = true;  // what is left out gets rows too, the last
  static __device__ __forceinline__ int Padded(const Sort&, int count) { return count; }
};
struct Grouping : Permutation {};

__device__ __forceinline__ int RoundedTo128(int count) { return (count + 127) / 128 * 128; }

template <class Kind>
__device__ __forceinline__ int Buckets(const Sort& sort) {
  return sort.buckets + (Kind::kTail ? 1 : 0);
}

// Bucket of what is left out: that behind all others, or none.
template <class Kind>
__device__ __forceinline__ int LeftOut(const Sort& sort) {
  return Kind::kTail ? sort.buckets : -1;
}

// Bucket of an entry of expert `id`, or -1.
template <class Kind>
__device__ __forceinline__ int BucketOfExpert(const Sort& sort, int64_t id) {
  id -= sort.first_expert;
  if (id < 0 || id >= sort.experts) return LeftOut<Kind>(sort);
  const int bucket = sort.map != nullptr ? sort.map[id] : static_cast<int>(id);
  return bucket < 0 || bucket >= sort.buckets ? LeftOut<Kind>(sort) : bucket;
}

// Writes where an entry of `bucket` came to. `kept`: the end of all that are not left out.
template <class Kind>
__device__ __forceinline__ void PlaceEntry(const Sort& sort, int slot, int64_t entry, int bucket,
                                           int row, int kept) {
  if constexpr (std::is_same_v<Kind, Grouping>) {
    // What is left out shares the row behind all others.
    const bool used = bucket < sort.buckets;
    sort.row_of_entry[entry] = used ? row : kept;
    if (used) sort.token_of_row[row] = static_cast<int32_t>(entry / sort.topk);
  } else if constexpr (Kind::kTail) {
    const int value = sort.values[entry];
    if (value >= 0 && value < sort.entries) sort.row_of_entry[value] = row;
    if (bucket < sort.buckets) sort.entry_of_row[row] = value;
  } else if (row < sort.capacity) {
    sort.sorted[static_cast<int64_t>(slot) * sort.capacity + row] = static_cast<int32_t>(entry);
  }
}

}  // namespace vk::cuda::moe_routing
#endif  // VLLM_KERNELS_CUDA_MOE_ROUTING_SORT_CUH_
