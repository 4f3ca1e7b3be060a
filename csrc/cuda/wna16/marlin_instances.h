// The compiled kernels: one table a dtype and weight type.
#ifndef VLLM_KERNELS_CUDA_WNA16_MARLIN_INSTANCES_H_
#define VLLM_KERNELS_CUDA_WNA16_MARLIN_INSTANCES_H_

#include "cuda/wna16/weight_type.h"

namespace vk::wna16 {

using KernelTable = const void* const*;

// Declares NAME followed by dtype and weight type, and NAME(bf16, type), which picks one.
#define VK_WNA16_TABLES(NAME)                                  \
  KernelTable NAME##Bf16U4B8();                                \
  KernelTable NAME##Bf16U4();                                  \
  KernelTable NAME##Bf16U8B128();                              \
  KernelTable NAME##Bf16Fp8();                                 \
  KernelTable NAME##HalfU4B8();                                \
  KernelTable NAME##HalfU4();                                  \
  KernelTable NAME##HalfU8B128();                              \
  KernelTable NAME##HalfFp8();                                 \
  inline KernelTable NAME(bool bf16, WeightType type) {        \
    switch (type) {                                            \
      case WeightType::kU4B8:                                  \
        return bf16 ? NAME##Bf16U4B8() : NAME##HalfU4B8();     \
      case WeightType::kU4:                                    \
        return bf16 ? NAME##Bf16U4() : NAME##HalfU4();         \
      case WeightType::kU8B128:                                \
        return bf16 ? NAME##Bf16U8B128() : NAME##HalfU8B128(); \
      default:                                                 \
        return bf16 ? NAME##Bf16Fp8() : NAME##HalfFp8();       \
    }                                                          \
  }

VK_WNA16_TABLES(MarlinKernels)        // in the order of VK_WNA16_SHAPES
VK_WNA16_TABLES(MarlinExpertKernels)  // products per expert: VK_WNA16_PLANNED_SHAPES

// On 9.0, where VK_WNA16_SM90 is set.
VK_WNA16_TABLES(StreamKernels)  // of few tokens: VK_WNA16_STREAM_SHAPES
VK_WNA16_TABLES(WideKernels)    // of more: VK_WNA16_WIDE_SHAPES

#undef VK_WNA16_TABLES

}  // namespace vk::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_MARLIN_INSTANCES_H_
