// 8x8 matrices of 16-bit elements between shared memory and the fragments of a warp. Loads are no
// fence for the compiler, which may move plain reads over them (as CUTLASS has it): a barrier
// stands between them and what fills the matrices.
#ifndef VLLM_KERNELS_CUDA_PTX_LDMATRIX_CUH_
#define VLLM_KERNELS_CUDA_PTX_LDMATRIX_CUH_

#include <cstdint>

namespace vk::cuda::ptx {

// "ldmatrix", .x4: register i of a lane gets elements 2 (lane % 4) and the next one of row lane / 4
// of matrix i. Lane i gives the address of row i % 8 of matrix i / 8, a multiple of 16.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

// .x2: addresses of the lanes from 16 on are not used.
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(address));
}

// .x4.trans: a lane gets elements of a column instead of a row.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

// "stmatrix", .x4 (compute capability 9.0): the inverse of ldmatrix_x4().
__device__ __forceinline__ void stmatrix_x4(uint32_t address, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

// "stmatrix", .x4.trans (compute capability 9.0): lane i gives where column i % 8 of matrix i / 8
// is stored, as a row of 16 bytes.
__device__ __forceinline__ void stmatrix_x4_trans(uint32_t address, const uint32_t (&r)[4]) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
      "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
      : "memory");
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_CUDA_PTX_LDMATRIX_CUH_
