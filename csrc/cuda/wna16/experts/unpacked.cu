// Experts' weights of 4 bits as they are stored, for a few tokens of each: the time is that of
// reading the weights once.
#include <cuda_runtime.h>

#include <algorithm>

#include "core/check.h"
#include "cuda/common/launch.h"
#include "cuda/common/rows.h"
#include "cuda/wna16/common/dequant.cuh"
#include "cuda/wna16/wna16.h"

namespace vk::cuda::wna16 {
namespace {

constexpr int kWarps = 4;
constexpr int kTiles = 4;   // of eight columns, of a block
constexpr int kLaneK = 32;  // of k, a lane's 16 bytes of weights
constexpr int kStep = 4 * kLaneK;
constexpr int kRows = 16;  // of tokens at once

struct Experts {
  const uint16_t* input;   // [tokens, k]
  uint16_t* output;        // [tokens * topk, n]
  const uint8_t* weights;  // [experts, n, k / 2]
  const uint16_t* scales;  // [experts, n, groups]
  const uint8_t* zeros;    // [experts, n / 2, groups] or null
  const float* factors;    // [tokens * topk] or null
  const int32_t* sorted;   // [blocks * block_rows]
  const int32_t* experts;  // [blocks]
  const int32_t* total;    // [1]
  int64_t input_stride;
  int32_t entries, topk, n, k, groups, group, count, block_rows;
};

// Eight neighbouring elements as four pairs that are as far apart as those of Weights().
__device__ __forceinline__ void Spread(uint32_t (&pairs)[4], const uint4& elements) {
  pairs[0] = __byte_perm(elements.x, elements.z, 0x5410);
  pairs[1] = __byte_perm(elements.x, elements.z, 0x7632);
  pairs[2] = __byte_perm(elements.y, elements.w, 0x5410);
  pairs[3] = __byte_perm(elements.y, elements.w, 0x7632);
}

// Eight weights of a word, rounded to T: pairs of elements 0 and 4, 1 and 5, 2 and 6, 3 and 7.
template <class T>
__device__ __forceinline__ void Weights(uint32_t (&pairs)[4], uint32_t word, uint32_t zero,
                                        uint32_t scale) {
  Dequant4<T>(pairs, word, zero, zero);
#pragma unroll
  for (uint32_t& pair : pairs) pair = T::Mul2(pair, scale);
}

// A block computes 32 columns of up to 16 entries; its warps split k. A lane loads 32 neighbouring
// k of its column and of its rows: the sum does not mind which k a fragment calls the first, as
// long as both do alike.
template <class T>
__global__ void __launch_bounds__(kWarps * 32, 3) ExpertsGemm(const __grid_constant__ Experts p) {
  __shared__ float sums[kWarps][kTiles][kRows * 8];
  const int block = static_cast<int>(blockIdx.y);
  const int parts = (p.block_rows + kRows - 1) / kRows;
  const int first = block / parts * p.block_rows + block % parts * kRows;
  if ((block / parts + 1) * p.block_rows > *p.total) return;
  const int expert = p.experts[block / parts];
  if (expert < 0 || expert >= p.count) return;
  const int rows = min(kRows, p.block_rows - block % parts * kRows);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int row = lane / 4, part = lane % 4 * kLaneK;
  const int column = static_cast<int>(blockIdx.x) * (8 * kTiles);
  const auto entry_of = [&](int at) {
    const int entry = at < rows ? p.sorted[first + at] : p.entries;
    return entry >= 0 && entry < p.entries ? entry : -1;
  };
  const uint16_t* from[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int entry = entry_of(row + 8 * half);
    from[half] = entry < 0 ? nullptr : p.input + entry / p.topk * p.input_stride;
  }
  const bool upper = __any_sync(0xffffffffu, from[1] != nullptr);

  // What a lane multiplies in one step; the next step's are under way meanwhile.
  struct Step {
    uint4 words[kTiles];
    uint32_t scales[kTiles], zeros[kTiles];
  };
  const auto load = [&](Step& step, int k) {
    const int group = k < p.k ? k / p.group : 0;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int n = column + tile * 8 + row;
      const int64_t at = static_cast<int64_t>(expert) * p.n + n;
      step.words[tile] = make_uint4(0, 0, 0, 0);
      step.scales[tile] = 0;
      step.zeros[tile] = 8;
      if (k >= p.k || n >= p.n) continue;
      step.words[tile] = __ldg(reinterpret_cast<const uint4*>(p.weights + at * (p.k / 2) + k / 2));
      step.scales[tile] = p.scales[at * p.groups + group];
      if (p.zeros != nullptr) {
        step.zeros[tile] = p.zeros[at / 2 * p.groups + group] >> (n % 2 * 4) & 15;
      }
    }
  };
  float sum[kTiles][4] = {};
  Step now, next;
  load(now, warp * kStep + part);
  for (int k0 = warp * kStep; k0 < p.k; k0 += kWarps * kStep, now = next) {
    const int k = k0 + part;
    const bool inside = k < p.k;
    load(next, k + kWarps * kStep);
    uint32_t scales[kTiles], zeros[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      scales[tile] = now.scales[tile] * 0x10001u;
      zeros[tile] = Magic<T>::kBase + now.zeros[tile] * 0x10001u;
    }
#pragma unroll
    for (int i = 0; i < kLaneK / 8; ++i) {
      uint32_t pairs[2][4] = {};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (from[half] != nullptr && inside) {
          Spread(pairs[half], *reinterpret_cast<const uint4*>(from[half] + k + 8 * i));
        }
        if (!upper) break;
      }
      const uint32_t low[4] = {pairs[0][0], pairs[1][0], pairs[0][1], pairs[1][1]};
      const uint32_t high[4] = {pairs[0][2], pairs[1][2], pairs[0][3], pairs[1][3]};
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const uint4& four = now.words[tile];
        const uint32_t word = i == 0 ? four.x : i == 1 ? four.y : i == 2 ? four.z : four.w;
        uint32_t weights[4];
        Weights<T>(weights, word, zeros[tile], scales[tile]);
        Mma<T>(sum[tile], low, {weights[0], weights[1]}, sum[tile]);
        Mma<T>(sum[tile], high, {weights[2], weights[3]}, sum[tile]);
      }
    }
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    float* to = sums[warp][tile] + row * 8 + lane % 4 * 2;
    to[0] = sum[tile][0];
    to[1] = sum[tile][1];
    to[64] = sum[tile][2];
    to[65] = sum[tile][3];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kTiles * kRows * 8; i += kWarps * 32) {
    const int tile = i / (kRows * 8), at = i % (kRows * 8), n = column + tile * 8 + at % 8;
    const int entry = entry_of(at / 8);
    if (entry < 0 || n >= p.n) continue;
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += sums[w][tile][at];
    if (p.factors != nullptr) total *= p.factors[entry];
    p.output[static_cast<int64_t>(entry) * p.n + n] = T::FromFloat(total);
  }
}

const int32_t* Numbers(const char* op, const char* name, const vk_tensor* tensor, int64_t least) {
  Arg(op, name, tensor).Dtype({VK_I32}).Contiguous();
  VK_CHECK(NumElements(*tensor) >= least, "%s: %s has shape %s, want at least %lld elements", op,
           name, ShapeString(*tensor).c_str(), static_cast<long long>(least));
  return static_cast<const int32_t*>(tensor->data);
}

}  // namespace
}  // namespace vk::cuda::wna16

namespace wna16 = vk::cuda::wna16;

extern "C" vk_status vk_cuda_moe_wna16_gemm(const vk_tensor* input, const vk_tensor* output,
                                            const vk_tensor* b_qweight, const vk_tensor* b_scales,
                                            const vk_tensor* b_qzeros,
                                            const vk_tensor* topk_weights,
                                            const vk_tensor* sorted_token_ids,
                                            const vk_tensor* expert_ids,
                                            const vk_tensor* num_tokens_post_pad, int64_t top_k,
                                            int64_t block_size_m, int64_t bit, void* stream) {
  return vk::Guard([&] {
    using vk::Arg;
    const char* op = "moe_wna16_gemm";
    VK_CHECK(bit == 4, "%s: bit is %lld, want 4: weights of 8 bits have no kernel", op,
             static_cast<long long>(bit));
    VK_CHECK(block_size_m >= 1 && block_size_m <= 1024, "%s: BLOCK_SIZE_M is %lld, want 1 to 1024",
             op, static_cast<long long>(block_size_m));
    const Arg in(op, "input", input), weights(op, "b_qweight", b_qweight);
    in.Dtype({VK_BF16, VK_F16}).Dims(2).LastDimContiguous();
    weights.Dtype({VK_U8}).Dims(3).Contiguous();
    const int64_t k = in.size(1), n = weights.size(1), count = weights.size(0);
    weights.Size(2, k / 2);
    const Arg scales(op, "b_scales", b_scales);
    scales.SameDtype(in).Dims(3).Size(0, count).Size(1, n).Contiguous();
    const int64_t groups = scales.size(2);
    VK_CHECK(k > 0 && groups > 0 && k % groups == 0 && k / groups % wna16::kLaneK == 0,
             "%s: %lld groups of k %lld, want groups of a multiple of %d", op,
             static_cast<long long>(groups), static_cast<long long>(k), wna16::kLaneK);
    VK_CHECK(vk::cuda::RowsAligned(*input, 16) && vk::cuda::RowsAligned(*b_qweight, 16),
             "%s: rows of input or b_qweight are not aligned to 16 bytes", op);
    VK_CHECK(top_k >= 1 && in.size(0) * top_k <= INT32_MAX && n <= INT32_MAX && k <= INT32_MAX,
             "%s: %lld rows with top_k %lld, want top_k of at least 1 and fewer than 2^31 entries",
             op, static_cast<long long>(in.size(0)), static_cast<long long>(top_k));
    const int64_t entries = in.size(0) * top_k;
    Arg(op, "output", output).SameDtype(in).MinDims(2).Size(-1, n).Contiguous();
    VK_CHECK(vk::NumElements(*output) == entries * n,
             "%s: output has shape %s, want %lld rows of %lld", op,
             vk::ShapeString(*output).c_str(), static_cast<long long>(entries),
             static_cast<long long>(n));

    wna16::Experts p = {};
    if (b_qzeros != nullptr) {
      VK_CHECK(n % 2 == 0, "%s: n is %lld, want an even one with zero points", op,
               static_cast<long long>(n));
      Arg(op, "b_qzeros", b_qzeros)
          .Dtype({VK_U8})
          .Dims(3)
          .Size(0, count)
          .Size(1, n / 2)
          .Size(2, groups)
          .Contiguous();
      p.zeros = static_cast<const uint8_t*>(b_qzeros->data);
    }
    if (topk_weights != nullptr) {
      Arg(op, "topk_weights", topk_weights).Dtype({VK_F32}).Contiguous();
      VK_CHECK(vk::NumElements(*topk_weights) >= entries,
               "%s: topk_weights has shape %s, want at least %lld elements", op,
               vk::ShapeString(*topk_weights).c_str(), static_cast<long long>(entries));
      p.factors = static_cast<const float*>(topk_weights->data);
    }
    p.sorted = wna16::Numbers(op, "sorted_token_ids", sorted_token_ids, 0);
    const int64_t blocks = vk::NumElements(*sorted_token_ids) / block_size_m;
    p.experts = wna16::Numbers(op, "expert_ids", expert_ids, blocks);
    p.total = wna16::Numbers(op, "num_tokens_post_pad", num_tokens_post_pad, 1);
    const int64_t grid_y = blocks * vk::cuda::CeilDiv(block_size_m, wna16::kRows);
    VK_CHECK(grid_y <= 65535, "%s: %lld blocks of tokens, want at most 65535", op,
             static_cast<long long>(grid_y));

    const auto on = vk::cuda::AsStream(stream);
    // Entries of experts that are elsewhere count as 0.
    vk::cuda::CheckCuda(op, "clearing the output",
                        cudaMemsetAsync(output->data, 0, static_cast<size_t>(2 * entries * n), on));
    if (grid_y == 0 || entries == 0 || n == 0) return;
    p.input = static_cast<const uint16_t*>(input->data);
    p.output = static_cast<uint16_t*>(output->data);
    p.weights = static_cast<const uint8_t*>(b_qweight->data);
    p.scales = static_cast<const uint16_t*>(b_scales->data);
    p.input_stride = in.stride(0);
    p.entries = static_cast<int32_t>(entries);
    p.topk = static_cast<int32_t>(top_k);
    p.n = static_cast<int32_t>(n);
    p.k = static_cast<int32_t>(k);
    p.groups = static_cast<int32_t>(groups);
    p.group = static_cast<int32_t>(k / groups);
    p.count = static_cast<int32_t>(count);
    p.block_rows = static_cast<int32_t>(block_size_m);
    const dim3 grid(vk::cuda::GridX(op, vk::cuda::CeilDiv(n, 8 * wna16::kTiles)),
                    static_cast<unsigned>(grid_y));
    if (input->dtype == VK_BF16) {
      wna16::ExpertsGemm<wna16::Bf16Arithmetic><<<grid, wna16::kWarps * 32, 0, on>>>(p);
    } else {
      wna16::ExpertsGemm<wna16::Fp16Arithmetic><<<grid, wna16::kWarps * 32, 0, on>>>(p);
    }
    vk::cuda::CheckLaunch(op);
  });
}
