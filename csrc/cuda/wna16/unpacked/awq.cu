// AWQ weights of 4 bits as the checkpoint holds them: packed along N, eight columns a word.
#include "core/check.h"
#include "cuda/wna16/layout.h"
#include "cuda/wna16/unpacked/unpacked.cuh"
#include "cuda/wna16/wna16.h"

namespace vk::cuda::wna16 {
namespace {

struct AwqParams {
  const uint32_t* weights;
  const uint32_t* zeros;
  const uint16_t* scales;
  int m, n, k, group;
};

__device__ __forceinline__ float Column(uint32_t word, int column) {
  return static_cast<float>(word >> (4 * AwqElement(4, column)) & 15);
}

// A lane sums the eight columns of a word over its warp's part of K, for kTokens tokens.
template <class T, int kTokens>
__global__ void __launch_bounds__(kUnpackedThreads)
    AwqGemm(float* partials, const uint16_t* a, int64_t lda, const AwqParams p) {
  __shared__ float tokens[kTokens][kBlockK];
  __shared__ float sums[kUnpackedWarps / 2][kTokens][256];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int words = p.n / 8;
  const int word = static_cast<int>(blockIdx.x) * 32 + lane;
  const int k0 = static_cast<int>(blockIdx.y) * kBlockK;
  const int m0 = static_cast<int>(blockIdx.z) * kTokens;
  StageTokens<T, kTokens>(tokens, a, lda, nullptr, m0, p.m, k0, p.k);

  float total[kTokens][8] = {};
  int offset = warp * kWarpK;
  const int end = word < words ? min(offset + kWarpK, p.k - k0) : 0;
  while (offset < end) {
    const int group = (k0 + offset) / p.group;
    const int stop = min(end, (group + 1) * p.group - k0);
    const uint32_t zeros = p.zeros[static_cast<int64_t>(group) * words + word];
    float sum[kTokens][8] = {};
    const uint32_t* from = p.weights + static_cast<int64_t>(k0 + offset) * words + word;
#pragma unroll 8
    for (; offset < stop; ++offset, from += words) {
      const uint32_t packed = *from;
#pragma unroll
      for (int column = 0; column < 8; ++column) {
        const float value = Column(packed, column) - Column(zeros, column);
#pragma unroll
        for (int t = 0; t < kTokens; ++t) sum[t][column] += tokens[t][offset] * value;
      }
    }
    const uint16_t* const scales = p.scales + static_cast<int64_t>(group) * p.n + word * 8;
#pragma unroll
    for (int column = 0; column < 8; ++column) {
      const float scale = T::ToFloat(scales[column]);
#pragma unroll
      for (int t = 0; t < kTokens; ++t) total[t][column] += scale * sum[t][column];
    }
  }
  // The upper half of the warps hands in first, the lower half adds its own.
  const int slot = warp % (kUnpackedWarps / 2);
  for (int half = 1; half >= 0; --half) {
    if (warp / (kUnpackedWarps / 2) == half) {
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
#pragma unroll
        for (int column = 0; column < 8; ++column) {
          float& at = sums[slot][t][column * 32 + lane];
          at = half == 1 ? total[t][column] : at + total[t][column];
        }
      }
    }
    __syncthreads();
  }
  for (int i = static_cast<int>(threadIdx.x); i < kTokens * 256; i += kUnpackedThreads) {
    const int token = i / 256, column = i % 256;
    const int at = static_cast<int>(blockIdx.x) * 256 + column;
    if (m0 + token >= p.m || at >= p.n) continue;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kUnpackedWarps / 2; ++w)
      sum += sums[w][token][column % 8 * 32 + column / 8];
    partials[(static_cast<int64_t>(blockIdx.y) * p.m + m0 + token) * p.n + at] = sum;
  }
}

template <class T>
__global__ void __launch_bounds__(256) AwqDequantize(uint16_t* out, const AwqParams p) {
  const int words = p.n / 8;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (index >= static_cast<int64_t>(p.k) * words) return;
  const int row = static_cast<int>(index / words), word = static_cast<int>(index % words);
  const int group = row / p.group;
  const uint32_t packed = p.weights[index];
  const uint32_t zeros = p.zeros[static_cast<int64_t>(group) * words + word];
  const uint16_t* const scales = p.scales + static_cast<int64_t>(group) * p.n + word * 8;
  uint32_t pairs[4];
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    uint32_t both = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int column = 2 * pair + i;
      const float value =
          (Column(packed, column) - Column(zeros, column)) * T::ToFloat(scales[column]);
      both |= static_cast<uint32_t>(T::FromFloat(value)) << (16 * i);
    }
    pairs[pair] = both;
  }
  *reinterpret_cast<uint4*>(out + index * 8) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

AwqParams CheckWeights(const char* op, const vk_tensor* kernel, const vk_tensor* scales,
                       const vk_tensor* zeros) {
  const Arg weight(op, "_kernel", kernel);
  weight.Dtype({VK_I32}).Dims(2).Contiguous();
  const int64_t k = weight.size(0), n = weight.size(1) * 8;
  VK_CHECK(k > 0 && n > 0 && k <= INT32_MAX && n <= INT32_MAX, "%s: _kernel is %s, want no 0", op,
           ShapeString(*kernel).c_str());
  const Arg scale(op, "_scaling_factors", scales);
  scale.Dtype({VK_F16, VK_BF16}).Dims(2).Size(1, n).Contiguous();
  const int64_t groups = scale.size(0);
  Arg(op, "_zeros", zeros).Dtype({VK_I32}).Dims(2).Size(0, groups).Size(1, n / 8).Contiguous();
  VK_CHECK(groups > 0 && k % groups == 0,
           "%s: _scaling_factors has %lld rows, want a divisor of K = %lld", op,
           static_cast<long long>(groups), static_cast<long long>(k));
  return {static_cast<const uint32_t*>(kernel->data),
          static_cast<const uint32_t*>(zeros->data),
          static_cast<const uint16_t*>(scales->data),
          0,
          static_cast<int>(n),
          static_cast<int>(k),
          static_cast<int>(k / groups)};
}

template <class T>
void LaunchGemm(const AwqParams& p, const vk_tensor& a, float* partials, uint16_t* out,
                cudaStream_t stream) {
  const int splits = static_cast<int>(UnpackedSplits(p.k));
  const auto launch = [&](auto kernel, int tokens) {
    const dim3 grid(static_cast<unsigned>((p.n + 255) / 256), static_cast<unsigned>(splits),
                    static_cast<unsigned>((p.m + tokens - 1) / tokens));
    kernel<<<grid, kUnpackedThreads, 0, stream>>>(partials, static_cast<const uint16_t*>(a.data),
                                                  a.stride[0], p);
  };
  if (p.m == 1) {
    launch(AwqGemm<T, 1>, 1);
  } else {
    launch(AwqGemm<T, 4>, 4);
  }
  CheckLaunch("awq_gemm");
  const int64_t count = static_cast<int64_t>(p.m) * p.n;
  AddSplits<T>
      <<<GridX("awq_gemm", CeilDiv(count, 256)), 256, 0, stream>>>(out, partials, count, splits);
  CheckLaunch("awq_gemm");
}

}  // namespace
}  // namespace vk::cuda::wna16

namespace wna16 = vk::cuda::wna16;

extern "C" {

vk_status vk_cuda_awq_gemm(const vk_tensor* c, const vk_tensor* a, const vk_tensor* kernel,
                           const vk_tensor* scales, const vk_tensor* zeros,
                           const vk_tensor* scratch, void* stream) {
  return vk::Guard([&] {
    const char* op = "awq_gemm";
    wna16::AwqParams params = wna16::CheckWeights(op, kernel, scales, zeros);
    const vk::Arg in(op, "_in_feats", a);
    in.SameDtype(vk::Arg(op, "_scaling_factors", scales));
    in.Dims(2).Size(1, params.k).LastDimContiguous();
    vk::Arg(op, "out", c).SameDtype(in).Dims(2).Size(0, in.size(0)).Size(1, params.n).Contiguous();
    const int64_t m = in.size(0), bytes = vk_cuda_unpacked_scratch(m, params.n, params.k);
    if (m == 0) return;
    VK_CHECK(m <= 4 * 65535, "%s: _in_feats has %lld rows, want at most %d", op,
             static_cast<long long>(m), 4 * 65535);
    const vk::Arg memory(op, "scratch", scratch);
    VK_CHECK(vk::NumElements(*scratch) >= bytes, "%s: scratch has %lld bytes, want %lld", op,
             static_cast<long long>(vk::NumElements(*scratch)), static_cast<long long>(bytes));
    params.m = static_cast<int>(m);
    auto* const partials = static_cast<float*>(scratch->data);
    auto* const out = static_cast<uint16_t*>(c->data);
    if (a->dtype == VK_BF16) {
      wna16::LaunchGemm<wna16::Bf16Arithmetic>(params, *a, partials, out,
                                               static_cast<cudaStream_t>(stream));
    } else {
      wna16::LaunchGemm<wna16::Fp16Arithmetic>(params, *a, partials, out,
                                               static_cast<cudaStream_t>(stream));
    }
  });
}

vk_status vk_cuda_awq_dequantize(const vk_tensor* weight, const vk_tensor* kernel,
                                 const vk_tensor* scales, const vk_tensor* zeros, void* stream) {
  return vk::Guard([&] {
    const char* op = "awq_dequantize";
    const wna16::AwqParams params = wna16::CheckWeights(op, kernel, scales, zeros);
    const vk::Arg out(op, "out", weight);
    out.SameDtype(vk::Arg(op, "_scaling_factors", scales));
    out.Dims(2).Size(0, params.k).Size(1, params.n).Contiguous();
    const unsigned blocks =
        vk::cuda::GridX(op, vk::cuda::CeilDiv(static_cast<int64_t>(params.k) * params.n / 8, 256));
    auto* const to = static_cast<uint16_t*>(weight->data);
    const auto on = static_cast<cudaStream_t>(stream);
    if (weight->dtype == VK_BF16) {
      wna16::AwqDequantize<wna16::Bf16Arithmetic><<<blocks, 256, 0, on>>>(to, params);
    } else {
      wna16::AwqDequantize<wna16::Fp16Arithmetic><<<blocks, 256, 0, on>>>(to, params);
    }
    vk::cuda::CheckLaunch(op);
  });
}

}  // extern "C"
