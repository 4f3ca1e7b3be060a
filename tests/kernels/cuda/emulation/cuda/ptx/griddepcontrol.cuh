#ifndef VLLM_KERNELS_TESTS_PTX_GRIDDEPCONTROL_CUH_
#define VLLM_KERNELS_TESTS_PTX_GRIDDEPCONTROL_CUH_

#include "device.h"

namespace vk::cuda::ptx {

inline void griddepcontrol_launch_dependents() {}
inline void griddepcontrol_wait() {}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_TESTS_PTX_GRIDDEPCONTROL_CUH_
