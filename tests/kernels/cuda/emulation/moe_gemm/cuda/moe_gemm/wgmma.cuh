// Stands for csrc/cuda/moe_gemm/wgmma.cuh: attention's emulation, with float8 products.
#ifndef VLLM_KERNELS_TESTS_MOE_GEMM_WGMMA_CUH_
#define VLLM_KERNELS_TESTS_MOE_GEMM_WGMMA_CUH_

#include "cuda/attention/wgmma.cuh"

inline int __shfl_up_sync(unsigned, int value, int distance) {
  int all[32];
  emulation::Exchange(value, all);
  const int lane = emulation::Lane();
  return all[lane >= distance ? lane - distance : lane];
}

namespace vk::cuda::moe_gemm {

using attention::BarrierArrive;
using attention::BarrierExpect;
using attention::BarrierInit;
using attention::BarrierInitFence;
using attention::BarrierWait;
using attention::KMajor;
using attention::NamedSync;
using attention::Pin;
using attention::RegistersFewer;
using attention::RegistersMore;
using attention::shared_memory;
using attention::SharedAddress;
using attention::WgmmaCommit;
using attention::WgmmaFence;
using attention::WgmmaWait;

inline float Fp8At(uint64_t matrix, int row, int k) {
  E4M3 value;
  value.__x = static_cast<uint8_t>(
      *attention::Swizzled(static_cast<uint32_t>(matrix) + static_cast<uint32_t>(row * 128 + k)));
  return ToFloat(value);
}

template <int kCount>
void WgmmaFp8(float (&d)[kCount], uint64_t desc_a, uint64_t desc_b, int add) {
  float* target = d;
  const int lane = emulation::Lane(), row = emulation::current / 32 % 4 * 16 + lane / 4;
  attention::products[emulation::current].open.push_back([=] {
    for (int i = 0; i < kCount; ++i) {
      const int half = i / 2 % 2, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      float total = add != 0 ? target[i] : 0.0f;
      for (int k = 0; k < 32; ++k) {
        total += Fp8At(desc_a, row + 8 * half, k) * Fp8At(desc_b, column, k);
      }
      target[i] = total;
    }
  });
}

inline void StoreMatricesTransposed(uint32_t address, const uint32_t (&r)[4]) {
  uint32_t all[32];
  if (address % 16 != 0 || address + 16 > emulation::kSharedBytes) {
    emulation::Fail("matrix address");
  }
  emulation::Exchange(address, all);
  const int lane = emulation::Lane();
  for (int matrix = 0; matrix < 4; ++matrix) {
    for (int i = 0; i < 2; ++i) {
      const uint16_t bits = static_cast<uint16_t>(r[matrix] >> (16 * i));
      std::memcpy(shared_memory + all[8 * matrix + lane % 4 * 2 + i] + lane / 4 * 2, &bits, 2);
    }
  }
}

template <class T>
uint32_t PackPair(float low, float high) {
  return attention::Pack<T>(low, high);
}

// The emulated map counts pairs of bytes.
inline void CopyBox(uint32_t to, const CUtensorMap* map, uint32_t barrier, int32_t x, int32_t y,
                    int32_t z) {
  attention::CopyBoxOf(to, map, barrier, {x / 2, y, z});
}

}  // namespace vk::cuda::moe_gemm
#endif  // VLLM_KERNELS_TESTS_MOE_GEMM_WGMMA_CUH_
