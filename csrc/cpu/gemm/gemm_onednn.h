// oneDNN's matrix product on our packed weights, where it is faster than our kernels.
#ifndef VLLM_KERNELS_CPU_GEMM_GEMM_ONEDNN_H_
#define VLLM_KERNELS_CPU_GEMM_GEMM_ONEDNN_H_

#include "cpu/gemm/gemm_run.h"

namespace vk {

// Runs `call` through oneDNN and returns true, or returns false and leaves it to our kernels: few
// rows, a dtype that they multiply as fast, a forced tier, or an oneDNN that has no kernel for the
// layout on this CPU.
bool RunOnednn(const GemmCall& call);

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_GEMM_GEMM_ONEDNN_H_
