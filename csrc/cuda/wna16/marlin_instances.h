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

}  // namespace vk::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_MARLIN_INSTANCES_H_
