// The compiled kernels: one table a dtype and weight type, in the order of VK_WNA16_SHAPES.
#ifndef VLLM_KERNELS_CUDA_WNA16_MARLIN_INSTANCES_H_
#define VLLM_KERNELS_CUDA_WNA16_MARLIN_INSTANCES_H_

namespace vk::wna16 {

using KernelTable = const void* const*;

KernelTable MarlinKernelsBf16U4B8();
KernelTable MarlinKernelsBf16U4();
KernelTable MarlinKernelsBf16U8B128();
KernelTable MarlinKernelsBf16Fp8();
KernelTable MarlinKernelsHalfU4B8();
KernelTable MarlinKernelsHalfU4();
KernelTable MarlinKernelsHalfU8B128();
KernelTable MarlinKernelsHalfFp8();

// Products per expert, in the order of VK_WNA16_PLANNED_SHAPES.
KernelTable MarlinExpertKernelsBf16U4B8();
KernelTable MarlinExpertKernelsBf16U4();
KernelTable MarlinExpertKernelsBf16U8B128();
KernelTable MarlinExpertKernelsBf16Fp8();
KernelTable MarlinExpertKernelsHalfU4B8();
KernelTable MarlinExpertKernelsHalfU4();
KernelTable MarlinExpertKernelsHalfU8B128();
KernelTable MarlinExpertKernelsHalfFp8();

// Products of few tokens on 9.0, in the order of VK_WNA16_STREAM_SHAPES (VK_WNA16_SM90).
KernelTable StreamKernelsBf16U4B8();
KernelTable StreamKernelsBf16U4();
KernelTable StreamKernelsBf16U8B128();
KernelTable StreamKernelsBf16Fp8();
KernelTable StreamKernelsHalfU4B8();
KernelTable StreamKernelsHalfU4();
KernelTable StreamKernelsHalfU8B128();
KernelTable StreamKernelsHalfFp8();

// Products of more tokens there, in the order of VK_WNA16_WIDE_SHAPES.
KernelTable WideKernelsBf16U4B8();
KernelTable WideKernelsBf16U4();
KernelTable WideKernelsBf16U8B128();
KernelTable WideKernelsBf16Fp8();
KernelTable WideKernelsHalfU4B8();
KernelTable WideKernelsHalfU4();
KernelTable WideKernelsHalfU8B128();
KernelTable WideKernelsHalfFp8();

}  // namespace vk::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_MARLIN_INSTANCES_H_
