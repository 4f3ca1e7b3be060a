#ifndef VLLM_KERNELS_TESTS_PTX_SETMAXNREG_CUH_
#define VLLM_KERNELS_TESTS_PTX_SETMAXNREG_CUH_

#include "device.h"

namespace vk::cuda::ptx {

template <int kRegisters>
void setmaxnreg_inc() {}
template <int kRegisters>
void setmaxnreg_dec() {}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_TESTS_PTX_SETMAXNREG_CUH_
