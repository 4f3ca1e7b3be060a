#ifndef VLLM_KERNELS_TESTS_PTX_ATOMICS_CUH_
#define VLLM_KERNELS_TESTS_PTX_ATOMICS_CUH_

#include "device.h"

namespace vk::cuda::ptx {

inline int32_t atom_add_acq_rel_gpu(int32_t* at, int32_t value) { return atomicAdd(at, value); }

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_TESTS_PTX_ATOMICS_CUH_
