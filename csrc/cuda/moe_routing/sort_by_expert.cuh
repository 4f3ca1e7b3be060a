// The sort of few entries: each block has experts of its own. It counts the entries of all, so that
// it knows where its experts' rows begin, and numbers its own in their order; no block waits for
// another.
#ifndef VLLM_KERNELS_CUDA_MOE_ROUTING_SORT_BY_EXPERT_CUH_
#define VLLM_KERNELS_CUDA_MOE_ROUTING_SORT_BY_EXPERT_CUH_

#include "cuda/common/scan.cuh"
#include "cuda/moe_routing/by_expert.h"
#include "cuda/moe_routing/sizes.cuh"
#include "cuda/moe_routing/sort.cuh"
#include "cuda/ptx/griddepcontrol.cuh"

namespace vk::cuda::moe_routing {

// Sums of a warp, or of a block.
struct ExpertSums {
  int rows_before;     // rows of the buckets before this one
  int rows;            // of all buckets
  int rounded_before;  // Grouping: as rows_before, each bucket's rounded up to 128
  int entries;         // of this bucket
};

// Shared memory of a block, behind the entries' buckets (uint16, kByExpertVector a thread or a
// multiple); then the buckets' counts.
struct ByExpertSharedStorage {
  ExpertSums warps[2][32];
};

__device__ __forceinline__ int WarpSum(int value) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  return __reduce_add_sync(0xFFFFFFFFu, value);
#else
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xFFFFFFFFu, value, distance);
  }
  return value;
#endif
}

// Counts all entries and keeps their buckets.
template <class Kind, class Id>
__device__ __forceinline__ void CountEntries(const Sort& sort, uint16_t* bucket_of, int* counts) {
  constexpr int kInFlight = 8;
  const Id* ids = static_cast<const Id*>(sort.ids);
  const int entries = static_cast<int>(sort.entries), threads = static_cast<int>(blockDim.x);
  for (int base = threadIdx.x; base < entries; base += kInFlight * threads) {
    Id id[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int entry = base + i * threads;
      id[i] = entry < entries ? ids[entry] : Id{-1};
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int entry = base + i * threads;
      if (entry >= entries) break;
      const int bucket = BucketOfExpert<Kind>(sort, id[i]);
      bucket_of[entry] = static_cast<uint16_t>(bucket);
      if (bucket >= 0) atomicAdd(counts + bucket, 1);
    }
  }
}

// Which of the kByExpertVector entries from `first` on are of `bucket`, as bits.
__device__ __forceinline__ uint32_t EntriesOf(const uint16_t* bucket_of, int first, int entries,
                                              int bucket) {
  if (first >= entries) return 0;
  const uint4 vector = *reinterpret_cast<const uint4*>(bucket_of + first);
  const uint32_t words[4] = {vector.x, vector.y, vector.z, vector.w};
  uint32_t mask = 0;
#pragma unroll
  for (int i = 0; i < kByExpertVector; ++i) {
    const uint32_t other = words[i / 2] >> (16 * (i % 2)) & 0xFFFFu;
    mask |= static_cast<uint32_t>(other == static_cast<uint32_t>(bucket)) << i;
  }
  const int valid = entries - first;  // what lies behind them was not written
  return valid >= kByExpertVector ? mask : mask & ((1u << valid) - 1);
}

// Sums of this thread over the buckets that it looks at.
template <class Kind>
__device__ __forceinline__ ExpertSums SumBuckets(const Sort& sort, const int* counts, int bucket) {
  ExpertSums sums = {};
  for (int i = threadIdx.x; i < Buckets<Kind>(sort); i += blockDim.x) {
    const int rows = Kind::Padded(sort, counts[i]);
    sums.rows += rows;
    if (i >= bucket) continue;
    sums.rows_before += rows;
    if constexpr (std::is_same_v<Kind, Grouping>) sums.rounded_before += RoundedTo128(counts[i]);
  }
  return sums;
}

// Turns each thread's sums into the block's, but `entries` into those of the threads before it.
// The whole block calls; `warps` is not that of the call before.
__device__ __forceinline__ ExpertSums AddUp(ExpertSums sums, ExpertSums* warps) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int through = InclusiveWarpSum(sums.entries);
  const ExpertSums own = {WarpSum(sums.rows_before), WarpSum(sums.rows),
                          WarpSum(sums.rounded_before), through};
  if (lane == 31) warps[warp] = own;
  __syncthreads();
  ExpertSums other = {};
  if (lane < static_cast<int>(blockDim.x) / 32) other = warps[lane];
  return {WarpSum(other.rows_before), WarpSum(other.rows), WarpSum(other.rounded_before),
          WarpSum(lane < warp ? other.entries : 0) + through - sums.entries};
}

// Writes the metadata of a bucket of `count` entries, and the rows that pad them.
template <class Kind>
__device__ __forceinline__ void DescribeBucket(const Sort& sort, int bucket, int count,
                                               const ExpertSums& sums) {
  const int first = sums.rows_before, thread = static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(blockDim.x);
  if constexpr (std::is_same_v<Kind, Grouping>) {
    if (thread != 0) return;
    sort.offsets[bucket] = first;
    if (bucket < sort.buckets) WriteSizes(sort.sizes, bucket, count);
    if (sort.padded_offsets != nullptr) sort.padded_offsets[bucket] = sums.rounded_before;
  } else if constexpr (Kind::kTail) {
    if (thread == 0) sort.first_rows[bucket] = first;
  } else {
    const int rows = Kind::Padded(sort, count);
    const int first_block = first / sort.block_size, blocks = rows / sort.block_size;
    for (int i = thread; i < blocks && first_block + i < sort.blocks; i += threads) {
      sort.block_experts[first_block + i] = bucket;
    }
    for (int i = count + thread; i < rows && first + i < sort.capacity; i += threads) {
      sort.sorted[first + i] = static_cast<int32_t>(sort.entries);
    }
  }
}

// And, split over all blocks, what is behind all of the rows.
template <class Kind>
__device__ __forceinline__ void DescribeRest(const Sort& sort, int rows) {
  if constexpr (!Kind::kTail) {
    const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
    if (thread == 0) *sort.total = rows;
    for (int64_t i = rows + thread; i < sort.capacity; i += threads) {
      sort.sorted[i] = static_cast<int32_t>(sort.entries);
    }
    for (int64_t i = rows / sort.block_size + thread; i < sort.blocks; i += threads) {
      sort.block_experts[i] = -1;
    }
  }
}

template <class Kind>
__global__ void __launch_bounds__(kByExpertMaxThreads)
    SortByExpertKernel(const __grid_constant__ Sort sort, int vectors) {
  extern __shared__ __align__(16) unsigned char by_expert_shared[];
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  const int entries = static_cast<int>(sort.entries), buckets = Buckets<Kind>(sort);
  auto* const bucket_of = reinterpret_cast<uint16_t*>(by_expert_shared);
  auto* const storage =
      reinterpret_cast<ByExpertSharedStorage*>(bucket_of + threads * vectors * kByExpertVector);
  int* const counts = reinterpret_cast<int*>(storage + 1);

  for (int i = thread; i < buckets; i += threads) counts[i] = 0;
  ptx::griddepcontrol_wait();
  __syncthreads();
  if (sort.wide_ids) {
    CountEntries<Kind, int64_t>(sort, bucket_of, counts);
  } else {
    CountEntries<Kind, int32_t>(sort, bucket_of, counts);
  }
  // Not sooner: blocks that wait beside those that work slow these down.
  ptx::griddepcontrol_launch_dependents();
  __syncthreads();

  const int first = thread * vectors * kByExpertVector;
  int turn = 0;
  for (int bucket = blockIdx.x; bucket < buckets; bucket += gridDim.x) {
    ExpertSums sums = SumBuckets<Kind>(sort, counts, bucket);
    for (int v = 0; v < vectors; ++v) {
      sums.entries += __popc(EntriesOf(bucket_of, first + v * kByExpertVector, entries, bucket));
    }
    sums = AddUp(sums, storage->warps[turn]);
    turn ^= 1;
    DescribeBucket<Kind>(sort, bucket, counts[bucket], sums);
    if (bucket == static_cast<int>(blockIdx.x)) DescribeRest<Kind>(sort, sums.rows);
    int row = sums.rows_before + sums.entries;
    for (int v = 0; v < vectors; ++v) {
      const int from = first + v * kByExpertVector;
      uint32_t mask = EntriesOf(bucket_of, from, entries, bucket);
      for (; mask != 0; mask &= mask - 1) {
        PlaceEntry<Kind>(sort, 0, from + __ffs(static_cast<int>(mask)) - 1, bucket, row++,
                         sums.rows_before);
      }
    }
  }
}

}  // namespace vk::cuda::moe_routing
#endif  // VLLM_KERNELS_CUDA_MOE_ROUTING_SORT_BY_EXPERT_CUH_
