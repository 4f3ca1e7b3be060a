// Drafted tokens through a gated delta net: a block for each request and value head, whose state
// stays in registers from token to token.
#ifndef VLLM_KERNELS_CUDA_GATED_DELTA_RULE_DRAFTS_CUH_
#define VLLM_KERNELS_CUDA_GATED_DELTA_RULE_DRAFTS_CUH_

#include "cuda/common/math.cuh"
#include "cuda/common/pdl.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/common/vec.cuh"
#include "cuda/gated_delta_rule/launch.h"

namespace vk::cuda::gated_delta_rule {

inline constexpr int kDraftThreads = 256;
inline constexpr int kLanes = 8;                      // of a row of the state, one value
inline constexpr int kRows = kDraftThreads / kLanes;  // of all threads at once
inline constexpr int kTurns = kHead / kRows;          // rows of a thread
inline constexpr int kColumns = kHead / kLanes;       // keys of a thread
inline constexpr float kUnitEpsilon = 1e-6f;          // of the lengths of q and k
inline constexpr float kLinear = 20.0f;               // from here on softplus(x) is x

__device__ __forceinline__ float NumberAt(const Numbers& numbers, int64_t row, int64_t column) {
  const int64_t at = row * numbers.stride + column;
  if (numbers.dtype == VK_F32) return static_cast<const float*>(numbers.data)[at];
  if (numbers.dtype == VK_BF16) return ToFloat(static_cast<const BFloat16*>(numbers.data)[at]);
  return ToFloat(static_cast<const Half*>(numbers.data)[at]);
}

struct DraftsSharedStorage {
  float query[2][kHead], key[2][kHead];  // of even and of odd tokens
  float result[2][kHead];
};

// Keys of a thread: vectors of N that the lanes of a row take in turn.
template <int N>
__device__ __forceinline__ int Column(int vector, int lane) {
  return (vector * kLanes + lane) * N;
}

template <int N>
__device__ __forceinline__ void LoadColumns(const float* from, int lane, float (&to)[kColumns]) {
#pragma unroll
  for (int v = 0; v < kColumns / N; ++v) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(from + Column<N>(v, lane) + i);
      to[v * N + i] = four.x;
      to[v * N + i + 1] = four.y;
      to[v * N + i + 2] = four.z;
      to[v * N + i + 3] = four.w;
    }
  }
}

// The first two warps: q and k of length 1.
template <class T>
__device__ __forceinline__ void LoadUnits(const Drafts& d, int64_t token, int key_head, int turn,
                                          DraftsSharedStorage& shared) {
  constexpr int N = 4;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  if (warp > 1) return;
  const T* from = static_cast<const T*>(d.qkv) + token * d.qkv_stride +
                  (warp * d.key_heads + key_head) * kHead + lane * N;
  float x[N], sum = 0.0f;
  ToFloats(LoadVec<N>(from), x);
#pragma unroll
  for (int i = 0; i < N; ++i) sum += x[i] * x[i];
  const float factor =
      rsqrtf(ReduceLanes<32>(sum, Sum()) + kUnitEpsilon) * (warp == 0 ? d.scale : 1.0f);
  float* const to = (warp == 0 ? shared.query[turn] : shared.key[turn]) + lane * N;
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = x[i] * factor;
}

// The norm and the gate of a token's finished results.
template <class T>
__device__ __forceinline__ void Finish(const Drafts& d, int64_t token, int head,
                                       const float* result) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  if (thread >= kHead) return;
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kHead / 32; ++i) {
    const float one = result[i * 32 + lane];
    sum += one * one;
  }
  sum = ReduceLanes<32>(sum, Sum());
  const float z =
      ToFloat(static_cast<const T*>(d.gate)[token * d.gate_token + head * d.gate_head + thread]);
  const float gate = d.sigmoid ? Sigmoid<float>(z) : z * Sigmoid<float>(z);
  const float norm = rsqrtf(sum / kHead + d.epsilon) * NumberAt(d.norm_weight, 0, thread);
  static_cast<T*>(d.out)[(token * d.heads + head) * kHead + thread] =
      FromFloat<T>(result[thread] * norm * gate);
}

template <class T, class State>
__global__ void __launch_bounds__(kDraftThreads, 2) DraftsKernel(const __grid_constant__ Drafts d) {
  constexpr int N = kVecSize<State>;
  extern __shared__ __align__(16) unsigned char vk_drafts[];
  auto& shared = *reinterpret_cast<DraftsSharedStorage*>(vk_drafts);
  PdlPrologue();
  const int request = static_cast<int>(blockIdx.y), head = static_cast<int>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kLanes;
  const int64_t begin = d.starts[request], end = d.starts[request + 1];
  const int accepted = d.accepted[request];
  const int32_t* const indices = d.indices + request * d.index_stride;
  const int64_t source = accepted > 0 && accepted <= d.columns ? indices[accepted - 1] : 0;
  if (source <= 0 || source >= d.slots) {
    if (thread >= kHead) return;
    for (int64_t token = begin; token < end; ++token) {
      static_cast<T*>(d.out)[(token * d.heads + head) * kHead + thread] = FromFloat<T>(0.0f);
    }
    return;
  }
  State* const states = static_cast<State*>(d.state) + int64_t{head} * kHead * kHead;
  float state[kTurns][kColumns];
#pragma unroll
  for (int r = 0; r < kTurns; ++r) {
    const State* const row =
        states + source * d.state_stride + (r * kRows + thread / kLanes) * kHead;
#pragma unroll
    for (int v = 0; v < kColumns / N; ++v) {
      float part[N];
      ToFloats(LoadVec<N>(row + Column<N>(v, lane)), part);
#pragma unroll
      for (int i = 0; i < N; ++i) state[r][v * N + i] = part[i];
    }
  }
  const int key_head = head / (d.heads / d.key_heads);
  const float rate = -expf(NumberAt(d.a_log, 0, head)), bias = NumberAt(d.dt_bias, 0, head);
  for (int64_t token = begin; token < end; ++token) {
    const int turn = static_cast<int>(token - begin) % 2;
    LoadUnits<T>(d, token, key_head, turn, shared);
    const float x = NumberAt(d.a, token, head) + bias;
    const float decay = expf(rate * (x <= kLinear ? log1pf(expf(x)) : x));
    const float beta = Sigmoid<float>(NumberAt(d.b, token, head));
    const T* const values =
        static_cast<const T*>(d.qkv) + token * d.qkv_stride + (2 * d.key_heads + head) * kHead;
    __syncthreads();
    float key[kColumns], query[kColumns];
    LoadColumns<N>(shared.key[turn], lane, key);
    LoadColumns<N>(shared.query[turn], lane, query);
#pragma unroll
    for (int r = 0; r < kTurns; ++r) {
      const int row = r * kRows + thread / kLanes;
      float known = 0.0f;
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        state[r][i] *= decay;
        known = fmaf(state[r][i], key[i], known);
      }
      const float missing = (ToFloat(values[row]) - ReduceLanes<kLanes>(known, Sum())) * beta;
      float result = 0.0f;
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        state[r][i] = fmaf(missing, key[i], state[r][i]);
        result = fmaf(state[r][i], query[i], result);
      }
      result = ReduceLanes<kLanes>(result, Sum());
      if (lane == 0) shared.result[turn][row] = RoundTo<T>(result);
    }
    __syncthreads();
    // The next token's results go elsewhere, and those after it wait for its barriers.
    Finish<T>(d, token, head, shared.result[turn]);
    const int64_t place = token - begin;
    const int64_t target = place < d.columns ? indices[place] : 0;
    if (target <= 0 || target >= d.slots) continue;
#pragma unroll
    for (int r = 0; r < kTurns; ++r) {
      State* const to = states + target * d.state_stride + (r * kRows + thread / kLanes) * kHead;
#pragma unroll
      for (int v = 0; v < kColumns / N; ++v) {
        float part[N];
#pragma unroll
        for (int i = 0; i < N; ++i) part[i] = state[r][v * N + i];
        StoreVec(to + Column<N>(v, lane), FromFloats<State>(part));
      }
    }
  }
}

}  // namespace vk::cuda::gated_delta_rule
#endif  // VLLM_KERNELS_CUDA_GATED_DELTA_RULE_DRAFTS_CUH_
