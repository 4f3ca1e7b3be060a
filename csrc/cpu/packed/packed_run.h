// One product of a linear layer with packed weights: blocks of rows, threads, scratch memory.
#ifndef VLLM_KERNELS_CPU_PACKED_PACKED_RUN_H_
#define VLLM_KERNELS_CPU_PACKED_PACKED_RUN_H_

#include "core/abi.h"
#include "cpu/packed/packed_weights.h"

namespace vk {

// Checked arguments.
struct PackedCall {
  const vk_tensor& out;
  const vk_tensor& input;
  const PackedWeights& weights;
  const vk_tensor* bias;  // or null
};

// Throws std::bad_alloc where scratch memory is missing.
void RunPacked(const PackedCall& call);

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_PACKED_PACKED_RUN_H_
