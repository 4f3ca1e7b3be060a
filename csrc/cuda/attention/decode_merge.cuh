// The end of decode where keys were split: the splits' results become the output.
#ifndef VLLM_KERNELS_CUDA_ATTENTION_DECODE_MERGE_CUH_
#define VLLM_KERNELS_CUDA_ATTENTION_DECODE_MERGE_CUH_

#include "cuda/attention/decode.cuh"
#include "cuda/common/reduce.cuh"

namespace vk::cuda::attention {

constexpr int kMergeValues = 256;  // at most, of a row

// Rows of a block of `team` warps a row.
constexpr int MergeRows(int team) { return team == 1 ? 4 : 1; }

// A block of float32 [team, kMergeValues] in shared memory, where a row has several warps.
constexpr int MergeSharedBytes(int team) {
  return team == 1 ? 0 : team * kMergeValues * static_cast<int>(sizeof(float));
}

// Maximum and sum of all of a row's splits; a whole warp calls.
__device__ __forceinline__ void MergeStats(const Problem& p, int64_t first, int64_t step, int used,
                                           float& maximum, float& sum) {
  constexpr int kLoads = kMaxSplits / 32;
  const int lane = threadIdx.x % 32;
  float maxima[kLoads], sums[kLoads];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int split = lane + 32 * i;
    maxima[i] = -INFINITY;
    sums[i] = 0.0f;
    if (split >= used) continue;
    const float* stats = p.partial_lse + 2 * (first + split * step);
    maxima[i] = stats[0];
    sums[i] = stats[1];
  }
  maximum = maxima[0];
#pragma unroll
  for (int i = 1; i < kLoads; ++i) maximum = fmaxf(maximum, maxima[i]);
  maximum = ReduceLanes<32>(maximum, Max());
  const float origin = maximum == -INFINITY ? 0.0f : maximum;
  sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) sum += sums[i] * ptx::ex2_approx_ftz(maxima[i] - origin);
  sum = ReduceLanes<32>(sum, Sum());
}

// kTeam warps a row, each of which adds up every kTeam-th split; kVector values at a time.
template <class T, int kTeam, int kVector>
__global__ void __launch_bounds__(32 * kTeam * MergeRows(kTeam))
    DecodeMergeKernel(const __grid_constant__ Problem p, int keys) {
  ptx::griddepcontrol_launch_dependents();
  extern __shared__ __align__(128) char shared[];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int32_t index = kTeam == 1 ? blockIdx.x * MergeRows(kTeam) + warp : blockIdx.x;
  const int32_t kv_head = index / p.decode_rows, row = index - kv_head * p.decode_rows;
  // What the decode kernel reads as well, which waited for it before this one started.
  const Request request = LoadRequest(p, blockIdx.y);
  const int32_t used = LoadSplit(p, request, row - row % kDecodeRows, 0, keys).used;
  ptx::griddepcontrol_wait();
  if (kv_head >= p.kv_heads) return;
  if (request.query_len > p.decode_query_len || row >= request.query_len * p.group) return;
  if (used == 1) return;  // written by the decode kernel
  const int64_t first = PartialRow(p, 0, request.index, kv_head, row);
  const int64_t step = static_cast<int64_t>(p.requests) * p.kv_heads * p.decode_rows;
  float maximum, sum;
  MergeStats(p, first, step, used, maximum, sum);
  const float origin = maximum == -INFINITY ? 0.0f : maximum;

  constexpr int kParts = kMergeValues / (32 * kVector);
  const int32_t size = p.value_head_size;
  float value[kParts][kVector] = {};
#pragma unroll 8
  for (int split = kTeam == 1 ? 0 : warp; split < used; split += kTeam) {
    const int64_t partial = first + split * step;
    const float weight = ptx::ex2_approx_ftz(p.partial_lse[2 * partial] - origin);
    const float* from = p.partial_out + partial * size;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int32_t column = (32 * part + lane) * kVector;
      if (column >= size) continue;
      if constexpr (kVector == 4) {
        const float4 four = *reinterpret_cast<const float4*>(from + column);
        value[part][0] += four.x * weight;
        value[part][1] += four.y * weight;
        value[part][2] += four.z * weight;
        value[part][3] += four.w * weight;
      } else {
        value[part][0] += from[column] * weight;
      }
    }
  }

  float top = maximum;
  const float v_scale =
      Scale(p.v_scale, p.v_scale_request_stride, p.v_scale_head_stride, request.index, kv_head);
  const float factor = FinishRow<T>(p, kv_head, row, v_scale, top, sum);
  if (p.lse != nullptr && lane == 0 && (kTeam == 1 || warp == 0)) {
    StoreLse(p, request, kv_head, row, top, sum);
  }
  [[maybe_unused]] float* const sums = reinterpret_cast<float*>(shared);
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const int32_t column = (32 * part + lane) * kVector + i;
      if (column >= size) continue;
      if constexpr (kTeam == 1) {
        StoreRow<T>(p, request, kv_head, row, column, value[part][i] * factor);
      } else {
        sums[warp * kMergeValues + column] = value[part][i];
      }
    }
  }
  if constexpr (kTeam > 1) {
    __syncthreads();
    for (int32_t column = threadIdx.x; column < size; column += blockDim.x) {
      float total = 0.0f;
#pragma unroll
      for (int other = 0; other < kTeam; ++other) total += sums[other * kMergeValues + column];
      StoreRow<T>(p, request, kv_head, row, column, total * factor);
    }
  }
}

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_CUDA_ATTENTION_DECODE_MERGE_CUH_
