// The few PTX instructions that the W4A16 / W8A16 kernels are made of, all of compute capability
// 8.0. A host build may bring its own (VK_WNA16_EMULATE: tests/kernels/cuda/emulation).
#ifndef VLLM_KERNELS_CUDA_WNA16_COMMON_PTX_CUH_
#define VLLM_KERNELS_CUDA_WNA16_COMMON_PTX_CUH_

#if defined(VK_WNA16_EMULATE)
#include "wna16_emulation.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/common/early.cuh"

namespace vk::cuda::wna16 {

__device__ __forceinline__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Copies 16 bytes past L1; writes zeros, and reads nothing, where `valid` is false.
__device__ __forceinline__ void CopyAsync16(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(SharedAddress(shared)),
               "l"(global), "r"(valid ? 16 : 0));
}

__device__ __forceinline__ void CopyCommit() { asm volatile("cp.async.commit_group;\n" ::); }

template <int kPending>
__device__ __forceinline__ void CopyWait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending));
}

__device__ __forceinline__ void LoadMatrix4(uint32_t (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(shared)));
}

__device__ __forceinline__ void LoadMatrix2(uint32_t (&r)[2], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];\n"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(SharedAddress(shared)));
}

using cuda::LetNextStart;
using cuda::WaitForPrevious;

// A hint: `bytes`, a multiple of 16, from a 16-byte aligned address will be wanted.
__device__ __forceinline__ void PrefetchL2(const void* global, int bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.prefetch.L2.global [%0], %1;\n" ::"l"(__cvta_generic_to_global(global)),
      "r"(bytes)
      : "memory");
#else
  (void)global, (void)bytes;
#endif
}

// Adds to `*at` and returns what was there. What this block wrote before its last barrier is
// visible to who finds the sum, and what such others wrote, to this block after its next.
__device__ __forceinline__ int32_t AddInOrder(int32_t* at, int32_t value) {
  int32_t old;
  asm volatile("atom.add.acq_rel.gpu.global.s32 %0, [%1], %2;\n"
               : "=r"(old)
               : "l"(at), "r"(value)
               : "memory");
  return old;
}

// (x & mask) | bits as one instruction.
template <uint32_t kMask, uint32_t kBits>
__device__ __forceinline__ uint32_t AndOr(uint32_t x) {
  uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;\n" : "=r"(out) : "r"(x), "n"(kMask), "n"(kBits));
  return out;
}

// (x & mask) ^ bits.
template <uint32_t kMask, uint32_t kBits>
__device__ __forceinline__ uint32_t AndXor(uint32_t x) {
  uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, 0x6a;\n" : "=r"(out) : "r"(x), "n"(kMask), "n"(kBits));
  return out;
}

// Arithmetic of a 16-bit float type, pairs of which lie in 32-bit registers.
struct Bf16Arithmetic {
  static __device__ __forceinline__ uint32_t Sub2(uint32_t x, uint32_t y) {
    const __nv_bfloat162 z =
        __hsub2(reinterpret_cast<__nv_bfloat162&>(x), reinterpret_cast<__nv_bfloat162&>(y));
    return reinterpret_cast<const uint32_t&>(z);
  }
  static __device__ __forceinline__ uint32_t Mul2(uint32_t x, uint32_t y) {
    const __nv_bfloat162 z =
        __hmul2(reinterpret_cast<__nv_bfloat162&>(x), reinterpret_cast<__nv_bfloat162&>(y));
    return reinterpret_cast<const uint32_t&>(z);
  }
  static __device__ __forceinline__ float ToFloat(uint16_t x) {
    return __uint_as_float(static_cast<uint32_t>(x) << 16);
  }
  static __device__ __forceinline__ uint16_t FromFloat(float x) {
    return __bfloat16_as_ushort(__float2bfloat16_rn(x));
  }
  // d = a (16 x 16, rows) * b (16 x 8, columns) + c
  static __device__ __forceinline__ void Mma(float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2], const float (&c)[4]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%10, %11, %12, %13};\n"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
          "f"(c[2]), "f"(c[3]));
  }
};

struct Fp16Arithmetic {
  static __device__ __forceinline__ uint32_t Sub2(uint32_t x, uint32_t y) {
    const __half2 z = __hsub2(reinterpret_cast<__half2&>(x), reinterpret_cast<__half2&>(y));
    return reinterpret_cast<const uint32_t&>(z);
  }
  static __device__ __forceinline__ uint32_t Mul2(uint32_t x, uint32_t y) {
    const __half2 z = __hmul2(reinterpret_cast<__half2&>(x), reinterpret_cast<__half2&>(y));
    return reinterpret_cast<const uint32_t&>(z);
  }
  static __device__ __forceinline__ float ToFloat(uint16_t x) {
    return __half2float(__ushort_as_half(x));
  }
  static __device__ __forceinline__ uint16_t FromFloat(float x) {
    return __half_as_ushort(__float2half_rn(x));
  }
  static __device__ __forceinline__ void Mma(float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2], const float (&c)[4]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%10, %11, %12, %13};\n"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
          "f"(c[2]), "f"(c[3]));
  }
};

}  // namespace vk::cuda::wna16

#endif  // VK_WNA16_EMULATE
#endif  // VLLM_KERNELS_CUDA_WNA16_COMMON_PTX_CUH_
