// Collectives by direct reads of the peers' memory (one-shot and two-shot all-reduce: Thakur,
// Rabenseifner and Gropp, "Optimization of Collective Communication Operations in MPICH", 2005,
// with each step a read over NVLink).
//
// A block of a rank reads only what the same block of its peers has written, so blocks meet their
// peers and no others, and no grid-wide barrier is needed. A rank that leaves a call has seen every
// peer done with its memory, but for the sums of two shots: those are written only after the next
// call's first meeting, which a peer comes to when it has left this call.
#ifndef VLLM_KERNELS_CUDA_ALL_REDUCE_KERNELS_CUH_
#define VLLM_KERNELS_CUDA_ALL_REDUCE_KERNELS_CUH_

#include "cuda/all_reduce/launch.h"
#include "cuda/common/vec.cuh"
#include "cuda/ptx/ld_st.cuh"

namespace vk::cuda::all_reduce {

// Waits until this block of every rank is here. What any of them wrote before is seen by all
// afterwards, and what any of them read before has been read.
template <int kRanks>
__device__ __forceinline__ void Meet(const Problem& p) {
  __syncthreads();
  const int peer = static_cast<int>(threadIdx.x);
  Signals* const mine = p.signals[p.rank];
  if (peer < kRanks) {
    const uint32_t meeting = mine->passed[blockIdx.x] + 1;
    ptx::st_release_sys(&p.signals[peer]->arrived[blockIdx.x][p.rank], meeting);
    // A peer may be one meeting ahead; counts wrap around.
    while (static_cast<int32_t>(ptx::ld_acquire_sys(&mine->arrived[blockIdx.x][peer]) - meeting) <
           0) {
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) ++mine->passed[blockIdx.x];
}

__device__ __forceinline__ int64_t FirstVector() {
  return int64_t{blockIdx.x} * kThreads + threadIdx.x;
}
__device__ __forceinline__ int64_t VectorStep() { return int64_t{gridDim.x} * kThreads; }

// This block's vectors of `vectors`.
__device__ __forceinline__ void CopyVectors(uint4* to, const uint4* from, int64_t vectors) {
  for (int64_t i = FirstVector(); i < vectors; i += VectorStep()) to[i] = from[i];
}

// output[i] = sum over ranks, in their order, in float32: all ranks get the same bits.
template <class T, int kRanks>
__device__ __forceinline__ void SumVectors(uint4* output, const uint4* const (&inputs)[kRanks],
                                           int64_t vectors) {
  constexpr int kSize = kVecSize<T>;
  constexpr int kUnroll = Unroll(kRanks);
  const int64_t step = VectorStep();
  for (int64_t first = FirstVector(); first < vectors; first += step * kUnroll) {
    uint4 words[kUnroll][kRanks];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
      for (int rank = 0; rank < kRanks; ++rank) {
        const int64_t i = first + u * step;
        if (i < vectors) words[u][rank] = inputs[rank][i];
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t i = first + u * step;
      if (i >= vectors) break;
      float sum[kSize];
      ToFloats(BitCast<Vec<T, kSize>>(words[u][0]), sum);
#pragma unroll
      for (int rank = 1; rank < kRanks; ++rank) {
        float other[kSize];
        ToFloats(BitCast<Vec<T, kSize>>(words[u][rank]), other);
#pragma unroll
        for (int j = 0; j < kSize; ++j) sum[j] += other[j];
      }
      output[i] = BitCast<uint4>(FromFloats<T>(sum));
    }
  }
}

// Peers read from `offset` vectors on.
template <int kRanks>
__device__ __forceinline__ void Inputs(const Problem& p, int64_t offset,
                                       const uint4* (&inputs)[kRanks]) {
#pragma unroll
  for (int rank = 0; rank < kRanks; ++rank) {
    inputs[rank] = static_cast<const uint4*>(p.peers->data[rank]) + offset;
  }
}

template <class T, int kRanks, bool kStaged>
__global__ void __launch_bounds__(kThreads) OneShotKernel(const __grid_constant__ Problem p) {
  if constexpr (kStaged) {
    CopyVectors(static_cast<uint4*>(p.peers->data[p.rank]), static_cast<const uint4*>(p.input),
                p.vectors);
  }
  Meet<kRanks>(p);
  const uint4* inputs[kRanks];
  Inputs(p, 0, inputs);
  SumVectors<T>(static_cast<uint4*>(p.output), inputs, p.vectors);
  Meet<kRanks>(p);
}

template <class T, int kRanks, bool kStaged>
__global__ void __launch_bounds__(kThreads) TwoShotKernel(const __grid_constant__ Problem p) {
  const int64_t share = (p.vectors + kRanks - 1) / kRanks;
  const auto share_of = [&](int rank) {
    const int64_t left = p.vectors - rank * share;
    return left < 0 ? 0 : left < share ? left : share;
  };
  const auto sums = [&](int rank) { return reinterpret_cast<uint4*>(p.signals[rank] + 1); };
  if constexpr (kStaged) {
    for (int rank = 0; rank < kRanks; ++rank) {
      CopyVectors(static_cast<uint4*>(p.peers->data[p.rank]) + rank * share,
                  static_cast<const uint4*>(p.input) + rank * share, share_of(rank));
    }
  }
  Meet<kRanks>(p);
  const uint4* inputs[kRanks];
  Inputs(p, p.rank * share, inputs);
  SumVectors<T>(sums(p.rank), inputs, share_of(p.rank));
  Meet<kRanks>(p);
  // From the own sums on, so that the ranks do not all read from the same one at once.
#pragma unroll
  for (int i = 0; i < kRanks; ++i) {
    const int rank = (p.rank + i) % kRanks;
    CopyVectors(static_cast<uint4*>(p.output) + rank * share, sums(rank), share_of(rank));
  }
}

// The rank's share of the sums: p.vectors of the message's p.vectors * kRanks.
template <class T, int kRanks>
__global__ void __launch_bounds__(kThreads) ReduceScatterKernel(const __grid_constant__ Problem p) {
  for (int rank = 0; rank < kRanks; ++rank) {
    CopyVectors(static_cast<uint4*>(p.peers->data[p.rank]) + rank * p.vectors,
                static_cast<const uint4*>(p.input) + rank * p.vectors, p.vectors);
  }
  Meet<kRanks>(p);
  const uint4* inputs[kRanks];
  Inputs(p, p.rank * p.vectors, inputs);
  SumVectors<T>(static_cast<uint4*>(p.output), inputs, p.vectors);
  Meet<kRanks>(p);
}

// The ranks' messages one after the other.
template <int kRanks>
__global__ void __launch_bounds__(kThreads) AllGatherKernel(const __grid_constant__ Problem p) {
  CopyVectors(static_cast<uint4*>(p.peers->data[p.rank]), static_cast<const uint4*>(p.input),
              p.vectors);
  Meet<kRanks>(p);
#pragma unroll
  for (int i = 0; i < kRanks; ++i) {
    const int rank = (p.rank + i) % kRanks;
    CopyVectors(static_cast<uint4*>(p.output) + rank * p.vectors,
                static_cast<const uint4*>(p.peers->data[rank]), p.vectors);
  }
  Meet<kRanks>(p);
}

}  // namespace vk::cuda::all_reduce
#endif  // VLLM_KERNELS_CUDA_ALL_REDUCE_KERNELS_CUH_
