// GPTQ weights as the checkpoint holds them: 2, 3, 4 or 8 bits, packed along K. 32 rows of K of one
// column are as many words as a weight has bits, whatever their number.
#include "core/check.h"
#include "core/checked.h"
#include "cuda/wna16/checks.h"
#include "cuda/wna16/unpacked/unpacked.cuh"
#include "cuda/wna16/wna16.h"

namespace vk::cuda::wna16 {
namespace {

constexpr int kSliceK = 32;

struct GptqParams {
  const uint32_t* weights;
  const uint32_t* zeros;
  const uint16_t* scales;
  const int32_t* g_idx;  // group of each row, or null: k / group
  const int32_t* perm;   // activation of each row, or null
  int m, n, k, group, groups;
  int zero_offset;
};

// Number `index` of a stream of kBits each.
template <int kBits>
__device__ __forceinline__ uint32_t Element(const uint32_t* words, int index) {
  constexpr uint32_t kMask = (1u << kBits) - 1;
  const int bit = index * kBits;
  uint32_t value = words[bit / 32] >> (bit % 32);
  if (bit % 32 + kBits > 32) value |= words[bit / 32 + 1] << (32 - bit % 32);
  return value & kMask;
}

template <int kBits>
__device__ __forceinline__ float ZeroPoint(const GptqParams& p, int group, int column) {
  const uint32_t* const row = p.zeros + static_cast<int64_t>(group) * (p.n * kBits / 32);
  return static_cast<float>(static_cast<int>(Element<kBits>(row, column)) + p.zero_offset);
}

template <int kBits>
__device__ __forceinline__ void LoadSlice(uint32_t (&words)[kBits], const GptqParams& p, int k,
                                          int column) {
  const uint32_t* const from = p.weights + static_cast<int64_t>(k / 32 * kBits) * p.n + column;
#pragma unroll
  for (int i = 0; i < kBits; ++i) words[i] = from[static_cast<int64_t>(i) * p.n];
}

// The group of the row, clamped: an index out of range must not read out of bounds.
__device__ __forceinline__ int GroupOf(const GptqParams& p, int row) {
  return p.g_idx != nullptr ? min(max(p.g_idx[row], 0), p.groups - 1) : row / p.group;
}

// A lane sums one column over its warp's part of K, for kTokens tokens.
template <class T, int kBits, int kTokens>
__global__ void __launch_bounds__(kUnpackedThreads)
    GptqGemm(float* partials, const uint16_t* a, int64_t lda, const GptqParams p) {
  __shared__ float tokens[kTokens][kBlockK];
  __shared__ float sums[kUnpackedWarps][kTokens][32];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int column = static_cast<int>(blockIdx.x) * 32 + lane;
  const int k0 = static_cast<int>(blockIdx.y) * kBlockK;
  const int m0 = static_cast<int>(blockIdx.z) * kTokens;
  StageTokens<T, kTokens>(tokens, a, lda, p.perm, m0, p.m, k0, p.k);

  float total[kTokens] = {};
#pragma unroll 1
  for (int slice = 0; slice < kWarpK / kSliceK; ++slice) {
    const int offset = warp * kWarpK + slice * kSliceK;
    const int k = k0 + offset;
    if (k >= p.k || column >= p.n) break;
    uint32_t words[kBits];
    LoadSlice<kBits>(words, p, k, column);
    const bool one_group = p.g_idx == nullptr && k / p.group == (k + kSliceK - 1) / p.group;
    if (one_group) {
      const int group = k / p.group;
      const float zero = ZeroPoint<kBits>(p, group, column);
      const float scale = T::ToFloat(p.scales[static_cast<int64_t>(group) * p.n + column]);
      float sum[kTokens] = {};
#pragma unroll
      for (int i = 0; i < kSliceK; ++i) {
        const float value = static_cast<float>(Element<kBits>(words, i)) - zero;
#pragma unroll
        for (int t = 0; t < kTokens; ++t) sum[t] += tokens[t][offset + i] * value;
      }
#pragma unroll
      for (int t = 0; t < kTokens; ++t) total[t] += scale * sum[t];
    } else {
#pragma unroll
      for (int i = 0; i < kSliceK; ++i) {
        const int group = GroupOf(p, k + i);
        const float scale = T::ToFloat(p.scales[static_cast<int64_t>(group) * p.n + column]);
        const float value =
            (static_cast<float>(Element<kBits>(words, i)) - ZeroPoint<kBits>(p, group, column)) *
            scale;
#pragma unroll
        for (int t = 0; t < kTokens; ++t) total[t] += tokens[t][offset + i] * value;
      }
    }
  }
#pragma unroll
  for (int t = 0; t < kTokens; ++t) sums[warp][t][lane] = total[t];
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kTokens * 32; i += kUnpackedThreads) {
    const int token = i / 32, at = static_cast<int>(blockIdx.x) * 32 + i % 32;
    if (m0 + token >= p.m || at >= p.n) continue;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kUnpackedWarps; ++w) sum += sums[w][token][i % 32];
    partials[(static_cast<int64_t>(blockIdx.y) * p.m + m0 + token) * p.n + at] = sum;
  }
}

template <class T, int kBits>
__global__ void __launch_bounds__(256) GptqDequantize(uint16_t* out, const GptqParams p) {
  const int column = static_cast<int>(blockIdx.x) * 256 + static_cast<int>(threadIdx.x);
  if (column >= p.n) return;
  for (int k = static_cast<int>(blockIdx.y) * kSliceK; k < p.k;
       k += static_cast<int>(gridDim.y) * kSliceK) {
    uint32_t words[kBits];
    LoadSlice<kBits>(words, p, k, column);
#pragma unroll 8
    for (int i = 0; i < kSliceK; ++i) {
      const int group = GroupOf(p, k + i);
      const float scale = T::ToFloat(p.scales[static_cast<int64_t>(group) * p.n + column]);
      const float value =
          static_cast<float>(Element<kBits>(words, i)) - ZeroPoint<kBits>(p, group, column);
      const int row = p.perm != nullptr ? min(max(p.perm[k + i], 0), p.k - 1) : k + i;
      out[static_cast<int64_t>(row) * p.n + column] = T::FromFloat(value * scale);
    }
  }
}

// Row k of the result is row perm[k]; a thread makes 32 rows of one column.
template <int kBits>
__global__ void __launch_bounds__(256)
    GptqShuffle(uint32_t* out, const uint32_t* in, const int32_t* perm, int k, int n) {
  const int column = static_cast<int>(blockIdx.x) * 256 + static_cast<int>(threadIdx.x);
  if (column >= n) return;
  for (int k0 = static_cast<int>(blockIdx.y) * kSliceK; k0 < k;
       k0 += static_cast<int>(gridDim.y) * kSliceK) {
    uint64_t pending = 0;
    int bits = 0, word = k0 / kSliceK * kBits;
    for (int i = 0; i < kSliceK; ++i) {
      const int row = min(max(perm[k0 + i], 0), k - 1);
      const int bit = row % kSliceK * kBits;
      const uint32_t* const from =
          in + static_cast<int64_t>(row / kSliceK * kBits + bit / 32) * n + column;
      uint32_t value = from[0] >> (bit % 32);
      if (bit % 32 + kBits > 32) value |= from[n] << (32 - bit % 32);
      pending |= static_cast<uint64_t>(value & ((1u << kBits) - 1)) << bits;
      bits += kBits;
      if (bits >= 32) {
        out[static_cast<int64_t>(word++) * n + column] = static_cast<uint32_t>(pending);
        pending >>= 32;
        bits -= 32;
      }
    }
  }
}

// Calls `use` with the number of bits as a constant.
template <class Use>
void WithBits(int64_t bits, Use&& use) {
  switch (bits) {
    case 2:
      return use(std::integral_constant<int, 2>());
    case 3:
      return use(std::integral_constant<int, 3>());
    case 4:
      return use(std::integral_constant<int, 4>());
    default:
      return use(std::integral_constant<int, 8>());
  }
}

void CheckBits(const char* op, int64_t bits) {
  VK_CHECK(bits == 2 || bits == 3 || bits == 4 || bits == 8, "%s: bit is %lld, want 2, 3, 4 or 8",
           op, static_cast<long long>(bits));
}

GptqParams CheckWeights(const char* op, const vk_gptq_weights& weights) {
  CheckBits(op, weights.bit);
  const Arg q(op, "b_q_weight", weights.q_weight);
  q.Dtype({VK_I32}).Dims(2).Contiguous();
  const int64_t n = q.size(1), k = q.size(0) * 32 / weights.bit;
  VK_CHECK(q.size(0) > 0 && q.size(0) % weights.bit == 0 && n > 0 && n * weights.bit % 32 == 0 &&
               k <= INT32_MAX && n <= INT32_MAX / 8,
           "%s: b_q_weight has shape %s, want rows for a multiple of 32 of K (%lld a 32) and "
           "columns whose zero points fill words of 32 bits",
           op, ShapeString(*weights.q_weight).c_str(), static_cast<long long>(weights.bit));
  const Arg scales(op, "b_gptq_scales", weights.scales);
  scales.Dtype({VK_F16, VK_BF16}).Dims(2).Size(1, n).Contiguous();
  const int64_t groups = scales.size(0);
  Arg(op, "b_gptq_qzeros", weights.qzeros)
      .Dtype({VK_I32})
      .Dims(2)
      .Size(0, groups)
      .Size(1, n * weights.bit / 32)
      .Contiguous();
  GptqParams params{};
  if (Given(weights.g_idx)) {
    Arg(op, "b_g_idx", weights.g_idx).Dtype({VK_I32}).Dims(1).Size(0, k).Contiguous();
    const auto* const index = static_cast<const int32_t*>(weights.g_idx->data);
    (weights.use_exllama ? params.perm : params.g_idx) = index;
  }
  VK_CHECK(groups > 0 && (params.g_idx != nullptr || k % groups == 0),
           "%s: b_gptq_scales has %lld rows, want a divisor of K = %lld", op,
           static_cast<long long>(groups), static_cast<long long>(k));
  params.weights = static_cast<const uint32_t*>(weights.q_weight->data);
  params.zeros = static_cast<const uint32_t*>(weights.qzeros->data);
  params.scales = static_cast<const uint16_t*>(weights.scales->data);
  params.n = static_cast<int>(n);
  params.k = static_cast<int>(k);
  params.group = static_cast<int>(k / groups > 0 ? k / groups : 1);
  params.groups = static_cast<int>(groups);
  params.zero_offset = weights.use_v2_format ? 0 : 1;
  return params;
}

template <class T>
void LaunchGemm(const GptqParams& p, int64_t bits, const vk_tensor& a, float* partials,
                uint16_t* out, cudaStream_t stream) {
  const int splits = static_cast<int>(UnpackedSplits(p.k));
  const auto* const from = static_cast<const uint16_t*>(a.data);
  const int64_t lda = a.stride[0];
  WithBits(bits, [&](auto constant) {
    constexpr int kBits = decltype(constant)::value;
    const auto launch = [&](auto kernel, int tokens) {
      const dim3 grid(static_cast<unsigned>((p.n + 31) / 32), static_cast<unsigned>(splits),
                      static_cast<unsigned>((p.m + tokens - 1) / tokens));
      kernel<<<grid, kUnpackedThreads, 0, stream>>>(partials, from, lda, p);
    };
    if (p.m == 1) {
      launch(GptqGemm<T, kBits, 1>, 1);
    } else {
      launch(GptqGemm<T, kBits, 8>, 8);
    }
  });
  CheckLaunch("gptq_gemm");
  const int64_t count = static_cast<int64_t>(p.m) * p.n;
  AddSplits<T>
      <<<GridX("gptq_gemm", CeilDiv(count, 256)), 256, 0, stream>>>(out, partials, count, splits);
  CheckLaunch("gptq_gemm");
}

dim3 ColumnGrid(int n, int k) {
  const int slices = k / kSliceK;
  return dim3(static_cast<unsigned>((n + 255) / 256),
              static_cast<unsigned>(slices < 65535 ? slices : 65535));
}

}  // namespace
}  // namespace vk::cuda::wna16

namespace wna16 = vk::cuda::wna16;

extern "C" {

int32_t vk_cuda_unpacked_prefers_dequantize(int64_t m) {
  constexpr int64_t kMaxTokens = 32;
  return m > kMaxTokens;
}

int64_t vk_cuda_unpacked_scratch(int64_t m, int64_t n, int64_t k) {
  using vk::SaturatingMultiply;
  return SaturatingMultiply<int64_t>(
      SaturatingMultiply(SaturatingMultiply(wna16::UnpackedSplits(k), m), n), 4);
}

vk_status vk_cuda_gptq_shuffle(const vk_tensor* out, const vk_tensor* q_weight,
                               const vk_tensor* perm, int64_t bit, void* stream) {
  return vk::Guard([&] {
    const char* op = "gptq_shuffle";
    wna16::CheckBits(op, bit);
    const vk::Arg weight(op, "q_weight", q_weight);
    weight.Dtype({VK_I32}).Dims(2).Contiguous();
    vk::Arg(op, "out", out).Dtype({VK_I32}).SameShape(weight).Contiguous();
    const int64_t k = weight.size(0) * 32 / bit, n = weight.size(1);
    VK_CHECK(weight.size(0) % bit == 0 && k <= INT32_MAX && n <= INT32_MAX,
             "%s: q_weight has %lld rows, want a multiple of %lld", op,
             static_cast<long long>(weight.size(0)), static_cast<long long>(bit));
    vk::Arg(op, "q_perm", perm).Dtype({VK_I32}).Dims(1).Size(0, k).Contiguous();
    if (k == 0 || n == 0) return;
    wna16::WithBits(bit, [&](auto constant) {
      constexpr int kBits = decltype(constant)::value;
      wna16::GptqShuffle<kBits><<<wna16::ColumnGrid(static_cast<int>(n), static_cast<int>(k)), 256,
                                  0, static_cast<cudaStream_t>(stream)>>>(
          static_cast<uint32_t*>(out->data), static_cast<const uint32_t*>(q_weight->data),
          static_cast<const int32_t*>(perm->data), static_cast<int>(k), static_cast<int>(n));
    });
    vk::cuda::CheckLaunch(op);
  });
}

vk_status vk_cuda_gptq_gemm(const vk_tensor* c, const vk_tensor* a, const vk_gptq_weights* weights,
                            const vk_tensor* scratch, void* stream) {
  return vk::Guard([&] {
    const char* op = "gptq_gemm";
    wna16::GptqParams params = wna16::CheckWeights(op, *weights);
    const vk::Arg in(op, "a", a);
    in.SameDtype(vk::Arg(op, "b_gptq_scales", weights->scales));
    in.Dims(2).Size(1, params.k).LastDimContiguous();
    vk::Arg(op, "c", c).SameDtype(in).Dims(2).Size(0, in.size(0)).Size(1, params.n).Contiguous();
    const int64_t m = in.size(0), bytes = vk_cuda_unpacked_scratch(m, params.n, params.k);
    if (m == 0) return;
    VK_CHECK(m <= 8 * 65535, "%s: a has %lld rows, want at most %d", op, static_cast<long long>(m),
             8 * 65535);
    const vk::Arg memory(op, "scratch", scratch);
    VK_CHECK(vk::NumElements(*scratch) >= bytes, "%s: scratch has %lld bytes, want %lld", op,
             static_cast<long long>(vk::NumElements(*scratch)), static_cast<long long>(bytes));
    params.m = static_cast<int>(m);
    auto* const partials = static_cast<float*>(scratch->data);
    auto* const out = static_cast<uint16_t*>(c->data);
    const auto on = static_cast<cudaStream_t>(stream);
    if (a->dtype == VK_BF16) {
      wna16::LaunchGemm<wna16::Bf16Arithmetic>(params, weights->bit, *a, partials, out, on);
    } else {
      wna16::LaunchGemm<wna16::Fp16Arithmetic>(params, weights->bit, *a, partials, out, on);
    }
  });
}

vk_status vk_cuda_gptq_dequantize(const vk_tensor* weight, const vk_gptq_weights* weights,
                                  void* stream) {
  return vk::Guard([&] {
    const char* op = "gptq_gemm";
    const wna16::GptqParams params = wna16::CheckWeights(op, *weights);
    const vk::Arg out(op, "weight", weight);
    out.SameDtype(vk::Arg(op, "b_gptq_scales", weights->scales));
    out.Dims(2).Size(0, params.k).Size(1, params.n).Contiguous();
    const auto on = static_cast<cudaStream_t>(stream);
    auto* const to = static_cast<uint16_t*>(weight->data);
    const dim3 grid = wna16::ColumnGrid(params.n, params.k);
    wna16::WithBits(weights->bit, [&](auto constant) {
      constexpr int kBits = decltype(constant)::value;
      if (weight->dtype == VK_BF16) {
        wna16::GptqDequantize<wna16::Bf16Arithmetic, kBits><<<grid, 256, 0, on>>>(to, params);
      } else {
        wna16::GptqDequantize<wna16::Fp16Arithmetic, kBits><<<grid, 256, 0, on>>>(to, params);
      }
    });
    vk::cuda::CheckLaunch(op);
  });
}

}  // extern "C"
