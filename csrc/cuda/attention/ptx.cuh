// Tensor-core and asynchronous-copy instructions behind functions, with what older GPUs do instead.
#ifndef VLLM_KERNELS_CUDA_ATTENTION_PTX_CUH_
#define VLLM_KERNELS_CUDA_ATTENTION_PTX_CUH_

#include <cstdint>
#include <type_traits>

#include "cuda/common/dtype.cuh"

namespace vk::cuda::attention {

__device__ __forceinline__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Four 8x8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void LoadMatrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

__device__ __forceinline__ void LoadMatricesTransposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// c += a (16x16) . b (16x8). Compute capability 7.5 has half the depth, and no bfloat16: the host
// refuses that before a launch.
template <class T>
__device__ __forceinline__ void Mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  if constexpr (sizeof(T) == 2 && std::is_same_v<T, __half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
#elif __CUDA_ARCH__ >= 750
  if constexpr (std::is_same_v<T, __half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
        "{%0,%1,%2,%3};\n"
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%7,%8}, {%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(b0), "r"(a[2]), "r"(a[3]), "r"(b1));
  }
#endif
}

// 16 bytes from global to shared memory, zeros where `valid` is false (nothing is read then).
__device__ __forceinline__ void CopyAsync(void* shared, const void* global, bool valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(SharedAddress(shared)),
      "l"(global), "r"(valid ? 16 : 0)
      : "memory");
#else
  uint4 bytes = make_uint4(0, 0, 0, 0);
  if (valid) bytes = __ldg(static_cast<const uint4*>(global));
  *static_cast<uint4*>(shared) = bytes;
#endif
}

__device__ __forceinline__ void CommitCopies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most `kPending` of the thread's latest groups are under way.
template <int kPending>
__device__ __forceinline__ void WaitCopies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float Tanh(float x) {
  // 1 - 2 / (e^2x + 1): right at both ends, absolute error below 1e-6 (tanh.approx has 5e-4).
  return 1.0f - __fdividef(2.0f, Exp2(x * 2.885390082f) + 1.0f);
}

__device__ __forceinline__ uint32_t Bits(__half2 value) {
  return *reinterpret_cast<uint32_t*>(&value);
}
__device__ __forceinline__ uint32_t Bits(__nv_bfloat162 value) {
  return *reinterpret_cast<uint32_t*>(&value);
}

template <class T>
__device__ __forceinline__ uint32_t Pack(float low, float high) {
  if constexpr (std::is_same_v<T, __half>) {
    return Bits(__floats2half2_rn(low, high));
  } else {
    return Bits(__floats2bfloat162_rn(low, high));
  }
}

// Type of the products' operands: float16 where the cache is float8, which it holds exactly and
// which takes one instruction for two values; bfloat16 takes four.
template <class T, class KV>
using Operand = std::conditional_t<sizeof(KV) == 1, Half, T>;

// A pair of T as a pair of operands; what float16 cannot hold becomes its largest number.
template <class T, class To>
__device__ __forceinline__ uint32_t ToOperands(uint32_t pair) {
  if constexpr (std::is_same_v<T, To>) {
    return pair;
  } else {
    static_assert(std::is_same_v<T, BFloat16> && std::is_same_v<To, Half>, "conversion in use");
    float values[2] = {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
#pragma unroll
    for (float& value : values) {
      if (fabsf(value) > 65504.0f && !isinf(value)) value = copysignf(65504.0f, value);
    }
    return Pack<To>(values[0], values[1]);
  }
}

// Two float8_e4m3fn (the low 16 bits) to two T; exact, as both formats hold every such value.
template <class T>
__device__ __forceinline__ uint32_t FromFp8(uint32_t pair) {
#if __CUDA_ARCH__ >= 890
  uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<uint16_t>(pair)));
#else
  // The bits of e4m3 are those of a float16 2^8 times smaller, denormals included; NaN is 0x7f.
  const uint32_t spread = __byte_perm(pair, 0, 0x1404);
  const uint32_t bits = (spread & 0x80008000u) | ((spread & 0x7f007f00u) >> 1);
  const __half2 scaled = __hmul2(*reinterpret_cast<const __half2*>(&bits), __float2half2_rn(256.f));
  uint32_t halves = Bits(scaled);
  if ((spread & 0x00007f00u) == 0x00007f00u) halves |= 0x00007fffu;
  if ((spread & 0x7f000000u) == 0x7f000000u) halves |= 0x7fff0000u;
#endif
  if constexpr (std::is_same_v<T, __half>) {
    return halves;
  } else {
    const float2 wide = __half22float2(*reinterpret_cast<const __half2*>(&halves));
    return Pack<T>(wide.x, wide.y);
  }
}

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_CUDA_ATTENTION_PTX_CUH_
