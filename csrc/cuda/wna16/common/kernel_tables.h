// The compiled kernels: one table a dtype and weight type.
#ifndef VLLM_KERNELS_CUDA_WNA16_COMMON_KERNEL_TABLES_H_
#define VLLM_KERNELS_CUDA_WNA16_COMMON_KERNEL_TABLES_H_

#include "cuda/wna16/weight_type.h"

namespace vk::cuda::wna16 {

using KernelTable = const void* const*;

// Declares NAME followed by dtype and weight type, and NAME(bf16, type), which picks one.
#define VK_WNA16_TABLES(NAME)                                  \
  KernelTable NAME##Bf16U4B8();                                \
  KernelTable NAME##Bf16U4();                                  \
  KernelTable NAME##Bf16U8B128();                              \
  KernelTable NAME##Bf16Fp8();                                 \
  KernelTable NAME##Bf16MxFp4();                               \
  KernelTable NAME##Bf16NvFp4();                               \
  KernelTable NAME##Fp16U4B8();                                \
  KernelTable NAME##Fp16U4();                                  \
  KernelTable NAME##Fp16U8B128();                              \
  KernelTable NAME##Fp16Fp8();                                 \
  KernelTable NAME##Fp16MxFp4();                               \
  KernelTable NAME##Fp16NvFp4();                               \
  inline KernelTable NAME(bool bf16, WeightType type) {        \
    switch (type) {                                            \
      case WeightType::kU4B8:                                  \
        return bf16 ? NAME##Bf16U4B8() : NAME##Fp16U4B8();     \
      case WeightType::kU4:                                    \
        return bf16 ? NAME##Bf16U4() : NAME##Fp16U4();         \
      case WeightType::kU8B128:                                \
        return bf16 ? NAME##Bf16U8B128() : NAME##Fp16U8B128(); \
      case WeightType::kMxFp4:                                 \
        return bf16 ? NAME##Bf16MxFp4() : NAME##Fp16MxFp4();   \
      case WeightType::kNvFp4:                                 \
        return bf16 ? NAME##Bf16NvFp4() : NAME##Fp16NvFp4();   \
      default:                                                 \
        return bf16 ? NAME##Bf16Fp8() : NAME##Fp16Fp8();       \
    }                                                          \
  }

VK_WNA16_TABLES(MarlinKernels)        // in the order of VK_WNA16_MARLIN_SHAPES
VK_WNA16_TABLES(MarlinExpertKernels)  // grouped GEMMs: VK_WNA16_MARLIN_PLANNED_SHAPES

// On 9.0, where VK_WNA16_SM90 is set.
VK_WNA16_TABLES(SmallMKernels)        // of few tokens: VK_WNA16_SMALL_M_SHAPES
KernelTable SmallMScaledKernels();    // the same of bfloat16 and kU4B8, with scales of the result
VK_WNA16_TABLES(LargeMKernels)        // of more: VK_WNA16_LARGE_M_SHAPES
VK_WNA16_TABLES(LargeExpertsKernels)  // grouped: VK_WNA16_LARGE_EXPERTS_SHAPES

#undef VK_WNA16_TABLES

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_COMMON_KERNEL_TABLES_H_
