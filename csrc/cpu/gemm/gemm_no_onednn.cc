// Stands in for gemm_onednn.cc in builds without oneDNN (cmake/Externals.cmake).
#include "cpu/gemm/gemm_onednn.h"

#include "cpu/gemm/gemm.h"

namespace vk {

bool RunOnednn(const GemmCall&) { return false; }

}  // namespace vk

extern "C" const char* vk_cpu_gemm_backends(void) { return "vllm_kernels"; }
