// Repacking of GPTQ and AWQ weights, once when a model is loaded.
#include <cuda_runtime.h>

#include "core/check.h"
#include "cuda/common/launch.h"
#include "cuda/wna16/layout.h"
#include "cuda/wna16/wna16.h"

namespace vk::cuda::wna16 {
namespace {

constexpr int kThreads = 256;

// A thread makes one word of the output.
template <int kBits, bool kAwq>
__global__ void Repack(uint32_t* out, const uint32_t* in, const int32_t* perm, int k, int n) {
  constexpr int kPack = 32 / kBits;
  constexpr uint32_t kMask = (1u << kBits) - 1;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= static_cast<int64_t>(k) * n / kPack) return;
  const int64_t packed_tile = index / PackedTileWords(kBits);
  const int word = static_cast<int>(index % PackedTileWords(kBits));
  const int k0 = static_cast<int>(packed_tile % (k / kPackedTileK)) * kPackedTileK;
  const int n0 = static_cast<int>(packed_tile / (k / kPackedTileK)) * kPackedTileN;
  uint32_t packed = 0;
#pragma unroll
  for (int element = 0; element < kPack; ++element) {
    const Place place = PackedTilePlace(kBits, word, element);
    const int column = n0 + place.n;
    int row = k0 + place.k;
    uint32_t value;
    if constexpr (kAwq) {
      const uint32_t source = in[static_cast<int64_t>(row) * (n / kPack) + column / kPack];
      value = source >> (kBits * AwqElement(kBits, column % kPack)) & kMask;
    } else {
      if (perm != nullptr) row = min(max(perm[row], 0), k - 1);
      const uint32_t source = in[static_cast<int64_t>(row / kPack) * n + column];
      value = source >> (kBits * (row % kPack)) & kMask;
    }
    packed |= value << (kBits * element);
  }
  out[index] = packed;
}

template <bool kAwq>
void RunRepack(const char* op, const vk_tensor* out, const vk_tensor* b_q_weight,
               const vk_tensor* perm, int64_t size_k, int64_t size_n, int64_t num_bits,
               void* stream) {
  VK_CHECK(num_bits == 4 || num_bits == 8, "%s: num_bits is %lld, want 4 or 8", op,
           static_cast<long long>(num_bits));
  VK_CHECK(size_k > 0 && size_k % 64 == 0 && size_n > 0 && size_n % 64 == 0 &&
               size_k <= INT32_MAX && size_n <= INT32_MAX,
           "%s: size_k x size_n is %lld x %lld, want multiples of 64", op,
           static_cast<long long>(size_k), static_cast<long long>(size_n));
  const int64_t pack = 32 / num_bits;
  const Arg result(op, "out", out);
  result.Dtype({VK_I32}).Dims(2).Size(0, size_k / 16).Size(1, size_n * 16 / pack).Contiguous();
  const Arg weight(op, "b_q_weight", b_q_weight);
  weight.Dtype({VK_I32}).Dims(2).Contiguous();
  weight.Size(0, kAwq ? size_k : size_k / pack).Size(1, kAwq ? size_n / pack : size_n);
  const int32_t* order = nullptr;
  if (perm != nullptr && NumElements(*perm) > 0) {
    Arg(op, "perm", perm).Dtype({VK_I32}).Dims(1).Size(0, size_k).Contiguous();
    order = static_cast<const int32_t*>(perm->data);
  }
  const int64_t words = size_k * size_n / pack;
  const unsigned blocks = static_cast<unsigned>((words + kThreads - 1) / kThreads);
  auto* const to = static_cast<uint32_t*>(out->data);
  const auto* const from = static_cast<const uint32_t*>(b_q_weight->data);
  const int k = static_cast<int>(size_k), n = static_cast<int>(size_n);
  const cudaStream_t on = static_cast<cudaStream_t>(stream);
  if (num_bits == 4) {
    Repack<4, kAwq><<<blocks, kThreads, 0, on>>>(to, from, order, k, n);
  } else {
    Repack<8, kAwq><<<blocks, kThreads, 0, on>>>(to, from, order, k, n);
  }
  CheckLaunch(op);
}

}  // namespace
}  // namespace vk::cuda::wna16

namespace wna16 = vk::cuda::wna16;

extern "C" {

vk_status vk_cuda_gptq_marlin_repack(const vk_tensor* out, const vk_tensor* b_q_weight,
                                     const vk_tensor* perm, int64_t size_k, int64_t size_n,
                                     int64_t num_bits, void* stream) {
  return vk::Guard([&] {
    wna16::RunRepack<false>("gptq_marlin_repack", out, b_q_weight, perm, size_k, size_n, num_bits,
                            stream);
  });
}

vk_status vk_cuda_awq_marlin_repack(const vk_tensor* out, const vk_tensor* b_q_weight,
                                    int64_t size_k, int64_t size_n, int64_t num_bits,
                                    void* stream) {
  return vk::Guard([&] {
    wna16::RunRepack<true>("awq_marlin_repack", out, b_q_weight, nullptr, size_k, size_n, num_bits,
                           stream);
  });
}

}  // extern "C"
