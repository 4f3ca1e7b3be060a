// The Walsh-Hadamard transform, with which activations are rotated so that none stands out before
// they are quantised (Tseng et al., "QuIP#", 2024; Liu et al., "SpinQuant", 2024). Tensors are on
// the current GPU; work is enqueued on `stream` (a cudaStream_t), nothing is allocated or waited
// for.
#ifndef VLLM_KERNELS_CUDA_HADAMARD_HADAMARD_H_
#define VLLM_KERNELS_CUDA_HADAMARD_HADAMARD_H_

#include "core/abi.h"

extern "C" {

// out = x H / sqrt(n) for each row of n elements, H Sylvester's matrix: H[i, j] = -1 to the number
// of bits that i and j have in common. In float32, rounded once.
//   x, out: [..., n], float32 | bfloat16 | float16, last dimension contiguous; may be one tensor
//   n: a power of two up to 32768, which takes 144 KiB of shared memory
VK_EXPORT vk_status vk_cuda_hadacore_transform(const vk_tensor* out, const vk_tensor* x,
                                               void* stream);

}  // extern "C"
#endif  // VLLM_KERNELS_CUDA_HADAMARD_HADAMARD_H_
