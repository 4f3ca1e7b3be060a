// Hopper's warpgroup matrix products (sm_90a), the memory barriers and the bulk tensor copies that
// feed them. Shared memory holds panels of 64 columns (128 bytes a row) in the 128-byte swizzle.
#ifndef VLLM_KERNELS_CUDA_ATTENTION_WGMMA_CUH_
#define VLLM_KERNELS_CUDA_ATTENTION_WGMMA_CUH_

#include <cuda.h>

#include <cstdint>
#include <type_traits>

#include "cuda/attention/ptx.cuh"

namespace vk::cuda::attention {

// Matrix descriptors: address, leading and stride offset in units of 16 bytes; 1 at bit 62 is the
// 128-byte swizzle. K-major (the summed dimension is contiguous): groups of eight rows follow each
// other at the stride offset, the leading offset is not used. MN-major: panels of 64 columns at the
// leading offset, groups of eight summed rows at the stride offset.
constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
constexpr uint64_t kRowGroup = uint64_t{1024 >> 4} << 32;

__device__ __forceinline__ uint64_t KMajor(uint32_t address) {
  return kSwizzle128 | kRowGroup | uint64_t{1} << 16 | (address & 0x3ffff) >> 4;
}

template <int kPanelBytes>
__device__ __forceinline__ uint64_t MnMajor(uint32_t address) {
  static_assert(kPanelBytes % 1024 == 0 && kPanelBytes < 1 << 18, "offset of the descriptor");
  return kSwizzle128 | kRowGroup | uint64_t{kPanelBytes >> 4} << 16 | (address & 0x3ffff) >> 4;
}

__device__ __forceinline__ void StoreSink(uint32_t address, float value) {
  asm volatile("st.volatile.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}

// Registers of a product must not be moved by the compiler while it runs.
template <int kCount>
__device__ __forceinline__ void Pin(float (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}

__device__ __forceinline__ void WgmmaFence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void WgmmaCommit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void WgmmaWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// clang-format off
#define VK_F8(d, i)                                                                      \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define VK_F32(d, i) VK_F8(d, i), VK_F8(d, i + 8), VK_F8(d, i + 16), VK_F8(d, i + 24)
#define VK_OUT32(d) VK_F32(d, 0)
#define VK_OUT64(d) VK_F32(d, 0), VK_F32(d, 32)
#define VK_OUT96(d) VK_OUT64(d), VK_F32(d, 64)
#define VK_OUT128(d) VK_OUT96(d), VK_F32(d, 96)
#define VK_REGS32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, " "%8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, " "%24, %25, %26, %27, %28, %29, %30, %31"
#define VK_REGS64 \
  "%0, %1, %2, %3, %4, %5, %6, %7, " "%8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, " "%24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, " "%40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, " "%56, %57, %58, %59, %60, %61, %62, %63"
#define VK_REGS96 \
  "%0, %1, %2, %3, %4, %5, %6, %7, " "%8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, " "%24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, " "%40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, " "%56, %57, %58, %59, %60, %61, %62, %63, " \
  "%64, %65, %66, %67, %68, %69, %70, %71, " "%72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, " "%88, %89, %90, %91, %92, %93, %94, %95"
#define VK_REGS128 \
  "%0, %1, %2, %3, %4, %5, %6, %7, " "%8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, " "%24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, " "%40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, " "%56, %57, %58, %59, %60, %61, %62, %63, " \
  "%64, %65, %66, %67, %68, %69, %70, %71, " "%72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, " "%88, %89, %90, %91, %92, %93, %94, %95, " \
  "%96, %97, %98, %99, %100, %101, %102, %103, " "%104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, " "%120, %121, %122, %123, %124, %125, %126, %127"

#define VK_WGMMA_SS(type, n, count, da, db, scale)                                        \
  asm volatile("{.reg .pred p; setp.ne.b32 p, " scale ", 0; "                             \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {"       \
               VK_REGS##count "}, " da ", " db ", p, 1, 1, 0, 0;}"                        \
               : VK_OUT##count(d) : "l"(desc_a), "l"(desc_b), "r"(add))
#define VK_WGMMA_RS(type, n, count, ra, db)                                               \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {"       \
               VK_REGS##count "}, {" ra "}, " db ", 1, 1, 1, 1;"                          \
               : VK_OUT##count(d) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(desc_b))
#define VK_WGMMA_TYPES(T, product, ...)                                                   \
  if constexpr (std::is_same_v<T, Half>) {                                                \
    product("f16", __VA_ARGS__);                                                          \
  } else {                                                                                \
    product("bf16", __VA_ARGS__);                                                         \
  }
// clang-format on

// d (+)= A (64 x 16, K-major) . B (16 x kCount * 2, K-major); `add` 0: d is overwritten.
template <class T, int kCount>
__device__ __forceinline__ void WgmmaShared(float (&d)[kCount], uint64_t desc_a, uint64_t desc_b,
                                            int add) {
  static_assert(kCount == 32 || kCount == 64, "instances in use");
  if constexpr (kCount == 32) {
    VK_WGMMA_TYPES(T, VK_WGMMA_SS, 64, 32, "%32", "%33", "%34")
  } else {
    VK_WGMMA_TYPES(T, VK_WGMMA_SS, 128, 64, "%64", "%65", "%66")
  }
}

// d += A (64 x 16, registers) . B (16 x kCount * 2, MN-major)
template <class T, int kCount>
__device__ __forceinline__ void WgmmaRegisters(float (&d)[kCount], const uint32_t (&a)[4],
                                               uint64_t desc_b) {
  if constexpr (kCount == 32) {
    VK_WGMMA_TYPES(T, VK_WGMMA_RS, 64, 32, "%32, %33, %34, %35", "%36")
  } else if constexpr (kCount == 64) {
    VK_WGMMA_TYPES(T, VK_WGMMA_RS, 128, 64, "%64, %65, %66, %67", "%68")
  } else if constexpr (kCount == 96) {
    VK_WGMMA_TYPES(T, VK_WGMMA_RS, 192, 96, "%96, %97, %98, %99", "%100")
  } else {
    static_assert(kCount == 128, "instances in use");
    VK_WGMMA_TYPES(T, VK_WGMMA_RS, 256, 128, "%128, %129, %130, %131", "%132")
  }
}

// mbarrier

__device__ __forceinline__ void BarrierInit(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void BarrierInitFence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void BarrierExpect(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void BarrierArrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Until the phase of that parity is complete.
__device__ __forceinline__ void BarrierWait(uint32_t barrier, int parity) {
  asm volatile(
      "{.reg .pred p;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@p bra done;\n"
      "bra again;\n"
      "done: }" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// Named barriers of some of a block's warps.
__device__ __forceinline__ void NamedSync(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ __forceinline__ void NamedArrive(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// Ordinary writes to shared memory before this are seen by products and copies after it.
__device__ __forceinline__ void FenceAsync() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

template <int kRegisters>
__device__ __forceinline__ void RegistersMore() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void RegistersFewer() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// The box of `map` at the coordinates (innermost first), zeros outside of the tensor.
__device__ __forceinline__ void CopyBox(uint32_t to, const CUtensorMap* map, uint32_t barrier,
                                        int32_t x, int32_t y, int32_t z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z)
      : "memory");
}
__device__ __forceinline__ void CopyBox(uint32_t to, const CUtensorMap* map, uint32_t barrier,
                                        int32_t x, int32_t y, int32_t z, int32_t w) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
}

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_CUDA_ATTENTION_WGMMA_CUH_
