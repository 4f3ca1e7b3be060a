// RMS norms of queries and keys whose heads lie on several ranks: ranks exchange two sums a token
// instead of a message and a norm after it.
//
// A sum is its own flag: the places that peers write to hold -0 until then, which no sum of squares
// is. There are three areas of them, taken in turn: a call waits in its own and empties that of the
// call before. Nobody writes to that one before the call after the next, which starts on a peer
// when this rank has been to the next one.
#ifndef VLLM_KERNELS_CUDA_ALL_REDUCE_RMS_QK_CUH_
#define VLLM_KERNELS_CUDA_ALL_REDUCE_RMS_QK_CUH_

#include <cstdint>

#include "cuda/common/reduce.cuh"
#include "cuda/common/vec.cuh"
#include "cuda/ptx/atomics.cuh"
#include "cuda/ptx/ld_st.cuh"

namespace vk::cuda::all_reduce {

constexpr int kRowThreads = 256;
constexpr int kAreas = 3;
constexpr int kScratch = 32;  // floats of a reduction over a block
constexpr int kShared = (2 * kScratch + 2) * int{sizeof(float)};
constexpr int64_t kMostTokens = 2048;     // for which the engine makes room
constexpr uint32_t kNoSum = 0x80000000u;  // -0

struct NormProblem {
  const void *qkv, *q_weight, *k_weight;
  void *q_out, *k_out;
  // The engine's: 2 * ranks addresses that mean nothing here, the ranks' places for sums, then
  // {blocks that are done, unused, area} (int32) and {bytes of the last call, of an area} (int64).
  const int64_t* workspace;
  int64_t token_stride, tokens;
  int32_t q_size, k_size, rank, ranks;
  float epsilon;
};

// The sum of squares of a row; every thread gets it.
template <class T>
__device__ __forceinline__ float SumOfSquares(const T* row, int size, float* scratch) {
  constexpr int N = kVecSize<T>;
  float sum = 0.0f;
  for (int i = static_cast<int>(threadIdx.x) * N; i < size; i += kRowThreads * N) {
    float x[N];
    ToFloats(LoadVec<N>(row + i), x);
#pragma unroll
    for (int j = 0; j < N; ++j) sum = fmaf(x[j], x[j], sum);
  }
  return ReduceBlock(sum, Sum(), scratch);
}

template <class T, class Weight>
__device__ __forceinline__ void WriteRow(const T* row, const void* weight, T* out, int size,
                                         float factor) {
  constexpr int N = kVecSize<T>;
  const Weight* weights = static_cast<const Weight*>(weight);
  for (int i = static_cast<int>(threadIdx.x) * N; i < size; i += kRowThreads * N) {
    float x[N];
    ToFloats(LoadVec<N>(row + i), x);
#pragma unroll
    for (int j = 0; j < N; ++j) x[j] *= factor * ToFloat(weights[i + j]);
    StoreVec(out + i, FromFloats<T>(x));
  }
}

template <class T, class Weight>
__global__ void __launch_bounds__(kRowThreads)
    NormSumsKernel(const __grid_constant__ NormProblem p) {
  extern __shared__ float rms_qk_shared[];
  float* const scratch = rms_qk_shared;
  float* const totals = scratch + 2 * kScratch;
  const int64_t* places = p.workspace + 2 * p.ranks;
  int32_t* state = reinterpret_cast<int32_t*>(p.workspace[3 * p.ranks]);
  int64_t* layout = reinterpret_cast<int64_t*>(p.workspace[3 * p.ranks + 1]);
  const int32_t area = state[2];
  const int64_t last_bytes = layout[0], area_words = layout[1] / int64_t{sizeof(uint64_t)};
  const int thread = static_cast<int>(threadIdx.x);
  const auto words_of = [&](int rank, int which) {
    return reinterpret_cast<uint64_t*>(places[rank]) + which * area_words;
  };

  for (int64_t token = blockIdx.x; token < p.tokens; token += gridDim.x) {
    const T* row = static_cast<const T*>(p.qkv) + token * p.token_stride;
    const float q = SumOfSquares(row, p.q_size, scratch);
    const float k = SumOfSquares(row + p.q_size, p.k_size, scratch + kScratch);
    if (thread < p.ranks) {
      const uint64_t both = uint64_t{__float_as_uint(k)} << 32 | __float_as_uint(q);
      uint64_t* at = words_of(thread, area) + p.rank * p.tokens + token;
      ptx::st_relaxed_sys(at, both);
    }
    __syncthreads();  // the scratch is used again
  }

  uint64_t* before = words_of(p.rank, (area + kAreas - 1) % kAreas);
  for (int64_t i = int64_t{blockIdx.x} * kRowThreads + thread;
       i < last_bytes / int64_t{sizeof(uint64_t)}; i += int64_t{gridDim.x} * kRowThreads) {
    before[i] = uint64_t{kNoSum} << 32 | kNoSum;
  }

  for (int64_t token = blockIdx.x; token < p.tokens; token += gridDim.x) {
    if (thread < 32) {
      float q = 0.0f, k = 0.0f;
      if (thread < p.ranks) {
        const uint64_t* at = words_of(p.rank, area) + thread * p.tokens + token;
        uint64_t both = ptx::ld_relaxed_sys(at);
        while (static_cast<uint32_t>(both) == kNoSum || both >> 32 == kNoSum) {
          both = ptx::ld_relaxed_sys(at);
        }
        q = __uint_as_float(static_cast<uint32_t>(both));
        k = __uint_as_float(static_cast<uint32_t>(both >> 32));
      }
      // By the same tree of additions on every rank.
      q = ReduceLanes<32>(q, Sum());
      k = ReduceLanes<32>(k, Sum());
      if (thread == 0) {
        totals[0] = rsqrtf(__fdiv_rn(q, static_cast<float>(p.q_size) * p.ranks) + p.epsilon);
        totals[1] = rsqrtf(__fdiv_rn(k, static_cast<float>(p.k_size) * p.ranks) + p.epsilon);
      }
    }
    __syncthreads();
    const T* row = static_cast<const T*>(p.qkv) + token * p.token_stride;
    WriteRow<T, Weight>(row, p.q_weight, static_cast<T*>(p.q_out) + token * p.q_size, p.q_size,
                        totals[0]);
    WriteRow<T, Weight>(row + p.q_size, p.k_weight, static_cast<T*>(p.k_out) + token * p.k_size,
                        p.k_size, totals[1]);
    __syncthreads();
  }

  // The last block to come here, when all have read the state, turns to the next area.
  if (thread == 0 &&
      ptx::atom_add_acq_rel_gpu(&state[0], 1) == static_cast<int32_t>(gridDim.x) - 1) {
    state[0] = 0;
    state[2] = (area + 1) % kAreas;
    layout[0] = p.ranks * p.tokens * int64_t{sizeof(uint64_t)};
  }
}

}  // namespace vk::cuda::all_reduce
#endif  // VLLM_KERNELS_CUDA_ALL_REDUCE_RMS_QK_CUH_
