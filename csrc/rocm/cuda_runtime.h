// What kernels and their launches need of CUDA's header of this name, on HIP.
#ifndef VLLM_KERNELS_ROCM_CUDA_RUNTIME_H_
#define VLLM_KERNELS_ROCM_CUDA_RUNTIME_H_

#include <cmath>
#include <cstdint>
#include <cstring>

#define __grid_constant__
#include "rocm/runtime.h"
// Checks and bindings are plain C++: they see the run time only.
#if defined(__HIP__) || defined(VK_ROCM_EMULATION)
#include "rocm/qualifiers.h"
// These need the qualifiers, and the second the first.
#include "rocm/functions.h"
#include "rocm/warp.h"
#endif

#endif  // VLLM_KERNELS_ROCM_CUDA_RUNTIME_H_
