// The order in which experts take their entries: a stable counting sort. Few entries are sorted
// by expert (sort_by_expert.cuh). Of more, and of adapters' tokens, warps take stretches, count
// them by expert, and number them from where the warps before them end; many entries are split over
// blocks, each of which then adds up the counts of all.
#include <algorithm>
#include <type_traits>

#include "cuda/common/pdl.cuh"
#include "cuda/common/scan.cuh"
#include "cuda/moe_routing/batched_align.cuh"
#include "cuda/moe_routing/by_expert.h"
#include "cuda/moe_routing/launch.h"
#include "cuda/moe_routing/sizes.cuh"
#include "cuda/moe_routing/sort.cuh"

namespace vk::cuda::moe_routing {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kCounters = 8192;     // of a block, in shared memory: 32 KiB
constexpr int64_t kSegment = 1024;  // entries of a block where there are more
constexpr int32_t kMaxSegments = 128;

// Bucket of an entry, or -1. `adapter`: whose tokens count, or -1 for all.
template <class Kind>
__device__ __forceinline__ int BucketOf(const Sort& sort, int64_t entry, int adapter) {
  const int64_t id = sort.wide_ids ? static_cast<const int64_t*>(sort.ids)[entry]
                                   : static_cast<const int32_t*>(sort.ids)[entry];
  if (adapter >= 0 && sort.token_adapters[entry / sort.topk] != adapter) return LeftOut<Kind>(sort);
  return BucketOfExpert<Kind>(sort, id);
}

// Calls body(entry, bucket, peers) for a warp's stretch, 32 entries at a time; `peers`: the lanes
// with the same bucket.
template <class Kind, class Body>
__device__ __forceinline__ void ForStretch(const Sort& sort, int64_t begin, int64_t end,
                                           int adapter, const Body& body) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int64_t base = begin; base < end; base += 32) {
    const int64_t entry = base + lane;
    const int bucket = entry < end ? BucketOf<Kind>(sort, entry, adapter) : -1;
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 700
    const unsigned peers = __match_any_sync(0xFFFFFFFFu, bucket);
#else
    const unsigned peers = 0;
#endif
    body(entry, bucket, peers);
    __syncwarp();
  }
}

struct Stretch {
  int64_t begin, end;
};

// A warp's part of a block's part of the entries; whole groups of 32.
__device__ __forceinline__ Stretch WarpStretch(const Sort& sort, int segment, int segments) {
  const int warps = static_cast<int>(blockDim.x) / 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t parts = static_cast<int64_t>(segments) * warps;
  const int64_t step = ((sort.entries + parts - 1) / parts + 31) / 32 * 32;
  const int64_t begin = (static_cast<int64_t>(segment) * warps + warp) * step;
  return {begin < sort.entries ? begin : sort.entries,
          begin + step < sort.entries ? begin + step : sort.entries};
}

// counters[warp][bucket]: how many of the warp's stretch
template <class Kind>
__device__ void CountWarps(const Sort& sort, const Stretch& stretch, int adapter, int* counters) {
  const int buckets = Buckets<Kind>(sort), warps = static_cast<int>(blockDim.x) / 32;
  for (int i = threadIdx.x; i < warps * buckets; i += blockDim.x) counters[i] = 0;
  __syncthreads();
  int* own = counters + threadIdx.x / 32 * buckets;
  const unsigned lane = threadIdx.x % 32;
  ForStretch<Kind>(sort, stretch.begin, stretch.end, adapter,
                   [&](int64_t, int bucket, unsigned peers) {
                     if (bucket >= 0 && (peers & ((1u << lane) - 1)) == 0) {
                       own[bucket] += __popc(peers);
                     }
                   });
  __syncthreads();
}

// Writes the metadata of a bucket of `count` entries from `first` on (offset, size, blocks). The
// whole block calls, a thread for each bucket of a chunk. `padded_end`: the end of the chunks
// before, each bucket padded to 128.
template <class Kind>
__device__ __forceinline__ void Describe(const Sort& sort, int slot, int bucket, int first,
                                         int count, int* scratch, int* padded_end) {
  const bool there = bucket < Buckets<Kind>(sort);
  if constexpr (std::is_same_v<Kind, Grouping>) {
    if (there) sort.offsets[bucket] = first;
    if (bucket < sort.buckets) WriteSizes(sort.sizes, bucket, count);
    if (sort.padded_offsets == nullptr) return;
    int all;
    const int rounded = bucket < sort.buckets ? RoundedTo128(count) : 0;
    const int padded_first = *padded_end + ExclusiveSum(rounded, scratch, &all);
    *padded_end += all;
    if (there) sort.padded_offsets[bucket] = padded_first;
  } else if constexpr (Kind::kTail) {
    if (there) sort.first_rows[bucket] = first;  // the tail's is the end of the local experts
  } else if (there) {
    int32_t* experts = sort.block_experts + static_cast<int64_t>(slot) * sort.blocks;
    const int end = first + Kind::Padded(sort, count);
    for (int i = first / sort.block_size; i < end / sort.block_size; ++i) {
      if (i < sort.blocks) experts[i] = bucket;
    }
  }
}

// And of all of them, which end at `end`; a whole block calls.
template <class Kind>
__device__ __forceinline__ void DescribeEnd(const Sort& sort, int slot, int end) {
  if constexpr (!Kind::kTail) {
    if (threadIdx.x == 0) sort.total[slot] = end;
    int32_t* experts = sort.block_experts + static_cast<int64_t>(slot) * sort.blocks;
    for (int i = end / sort.block_size + threadIdx.x; i < sort.blocks; i += blockDim.x) {
      experts[i] = -1;
    }
  }
}

// Turns counters[warp][bucket] into where each warp's entries of a bucket start, the first's after
// `before`, and returns where the last's end.
__device__ __forceinline__ int Accumulate(int* counters, int buckets, int bucket, int before) {
  const int warps = static_cast<int>(blockDim.x) / 32;
  for (int warp = 0; warp < warps; ++warp) {
    int& cell = counters[warp * buckets + bucket];
    const int count = cell;
    cell = before;
    before += count;
  }
  return before;
}

// Writes the entries of a warp's stretch; counters[warp][bucket] is the next place, `kept` the end
// of all that are not left out.
template <class Kind>
__device__ void Place(const Sort& sort, const Stretch& stretch, int adapter, int slot,
                      int* counters, int kept) {
  const int buckets = Buckets<Kind>(sort);
  int* own = counters + threadIdx.x / 32 * buckets;
  const unsigned lane = threadIdx.x % 32;
  ForStretch<Kind>(sort, stretch.begin, stretch.end, adapter,
                   [&](int64_t entry, int bucket, unsigned peers) {
                     const unsigned before = peers & ((1u << lane) - 1);
                     const int row = bucket >= 0 ? own[bucket] + __popc(before) : 0;
                     __syncwarp();
                     if (bucket < 0) return;
                     if (before == 0) own[bucket] += __popc(peers);
                     PlaceEntry<Kind>(sort, slot, entry, bucket, row, kept);
                   });
}

// Every place that no entry may come to is filled before any entry is written.
__device__ __forceinline__ void Fill(const Sort& sort, int slot, int block, int blocks) {
  int32_t* sorted = sort.sorted + static_cast<int64_t>(slot) * sort.capacity;
  for (int64_t i = static_cast<int64_t>(block) * blockDim.x + threadIdx.x; i < sort.capacity;
       i += static_cast<int64_t>(blocks) * blockDim.x) {
    sorted[i] = static_cast<int32_t>(sort.entries);
  }
}

// A block for each adapter.
__global__ void __launch_bounds__(kMaxThreads)
    AlignAdapterKernel(const __grid_constant__ Sort sort) {
  PdlPrologue();
  extern __shared__ int counters[];
  __shared__ int scratch[32];
  const int adapter = sort.adapters[blockIdx.x];
  if (adapter < 0 || adapter >= sort.max_adapters || sort.enabled[adapter] == 0) return;
  const Stretch stretch = WarpStretch(sort, 0, 1);
  Fill(sort, adapter, 0, 1);
  CountWarps<Align>(sort, stretch, adapter, counters);
  // Chunks of as many buckets as threads.
  const int buckets = sort.buckets;
  int end = 0, padded_end = 0;
  for (int base = 0; base < buckets; base += blockDim.x) {
    const int bucket = base + static_cast<int>(threadIdx.x);
    const int count = bucket < buckets ? Accumulate(counters, buckets, bucket, 0) : 0;
    int all;
    const int first = end + ExclusiveSum(Align::Padded(sort, count), scratch, &all);
    end += all;
    if (bucket < buckets) {
      for (int warp = 0; warp < static_cast<int>(blockDim.x) / 32; ++warp) {
        counters[warp * buckets + bucket] += first;
      }
    }
    Describe<Align>(sort, adapter, bucket, first, count, scratch, &padded_end);
  }
  DescribeEnd<Align>(sort, adapter, end);
  __syncthreads();
  Place<Align>(sort, stretch, adapter, adapter, counters, 0);
}

template <class Kind>
__global__ void __launch_bounds__(kMaxThreads) CountKernel(const __grid_constant__ Sort sort) {
  PdlPrologue();
  extern __shared__ int counters[];
  const int segments = static_cast<int>(gridDim.x), segment = static_cast<int>(blockIdx.x);
  if constexpr (!Kind::kTail) Fill(sort, 0, segment, segments);
  CountWarps<Kind>(sort, WarpStretch(sort, segment, segments), -1, counters);
  const int buckets = Buckets<Kind>(sort), warps = static_cast<int>(blockDim.x) / 32;
  for (int bucket = threadIdx.x; bucket < buckets; bucket += blockDim.x) {
    int count = 0;
    for (int warp = 0; warp < warps; ++warp) count += counters[warp * buckets + bucket];
    sort.workspace[static_cast<int64_t>(segment) * buckets + bucket] = count;
  }
}

template <class Kind>
__global__ void __launch_bounds__(kMaxThreads) PlaceKernel(const __grid_constant__ Sort sort) {
  PdlPrologue();
  extern __shared__ int counters[];
  __shared__ int scratch[32], kept;
  const int segments = static_cast<int>(gridDim.x), segment = static_cast<int>(blockIdx.x);
  const Stretch stretch = WarpStretch(sort, segment, segments);
  CountWarps<Kind>(sort, stretch, -1, counters);
  const int buckets = Buckets<Kind>(sort);
  int end = 0, padded_end = 0;
  for (int base = 0; base < buckets; base += blockDim.x) {
    const int bucket = base + static_cast<int>(threadIdx.x);
    int count = 0, before = 0;  // of all segments, of those before this one
    if (bucket < buckets) {
#pragma unroll 16
      for (int other = 0; other < segments; ++other) {
        const int here = __ldcg(sort.workspace + static_cast<int64_t>(other) * buckets + bucket);
        count += here;
        before += other < segment ? here : 0;
      }
    }
    const int padded = Kind::Padded(sort, count);
    int all;
    const int first = end + ExclusiveSum(padded, scratch, &all);
    end += all;
    if (bucket == sort.buckets) kept = first;
    if (bucket < buckets) Accumulate(counters, buckets, bucket, first + before);
    if (segment == 0) Describe<Kind>(sort, 0, bucket, first, count, scratch, &padded_end);
  }
  if (segment == 0) DescribeEnd<Kind>(sort, 0, end);
  __syncthreads();
  Place<Kind>(sort, stretch, -1, 0, counters, kept);
}

// Warps of a block whose counters of so many buckets fit.
int WarpsOf(int buckets) {
  int warps = kMaxThreads / 32;
  while (warps > 1 && warps * buckets > kCounters) warps /= 2;
  return warps;
}

void LaunchAdapters(const char* op, const Sort& sort, cudaStream_t stream) {
  int warps = WarpsOf(sort.buckets);
  // No more than have an entry, but enough to fill and to scan.
  while (warps > 8 && sort.entries < warps * 16) warps /= 2;
  LaunchPdl(op, AlignAdapterKernel, sort.slots, warps * 32, sizeof(int) * warps * sort.buckets,
            stream, sort);
}

template <class Kind>
void LaunchSegments(const char* op, const Sort& sort, cudaStream_t stream) {
  const int buckets = sort.buckets + (Kind::kTail ? 1 : 0), warps = WarpsOf(buckets);
  const int32_t segments = SortSegments(sort.entries);
  const size_t shared = sizeof(int) * warps * buckets;
  LaunchPdl(op, CountKernel<Kind>, segments, warps * 32, shared, stream, sort);
  LaunchPdl(op, PlaceKernel<Kind>, segments, warps * 32, shared, stream, sort);
}

}  // namespace

int32_t SortSegments(int64_t entries) {
  if (entries <= kByExpertEntries) return 1;
  return static_cast<int32_t>(std::min<int64_t>(CeilDiv(entries, kSegment), kMaxSegments));
}

void LaunchAlign(const char* op, const Sort& sort, cudaStream_t stream) {
  if (sort.adapters != nullptr) return LaunchAdapters(op, sort, stream);
  if (SortSegments(sort.entries) == 1) return LaunchAlignByExpert(op, sort, stream);
  LaunchSegments<Align>(op, sort, stream);
}

void LaunchPermutation(const char* op, const Sort& sort, cudaStream_t stream) {
  if (SortSegments(sort.entries) == 1) return LaunchPermutationByExpert(op, sort, stream);
  LaunchSegments<Permutation>(op, sort, stream);
}

void LaunchGrouping(const char* op, const Sort& sort, cudaStream_t stream) {
  if (SortSegments(sort.entries) == 1) return LaunchGroupingByExpert(op, sort, stream);
  LaunchSegments<Grouping>(op, sort, stream);
}

void LaunchBatchedAlign(const char* op, const BatchedAlign& align, cudaStream_t stream) {
  const int64_t blocks = CeilDiv(align.capacity, 4 * kBatchedThreads);
  const unsigned grid = static_cast<unsigned>(std::min<int64_t>(std::max<int64_t>(blocks, 1), 64));
  BatchedAlignKernel<<<grid, kBatchedThreads, 0, stream>>>(align);
  CheckLaunch(op);
}

}  // namespace vk::cuda::moe_routing
