// The tensors that ops make: their results and their scratch. What PyTorch itself refuses, some of
// its releases print with a stack of 40 frames before the op can say a word, so nothing is asked of
// it that cannot be.
#ifndef VLLM_KERNELS_TORCH_RESULTS_H_
#define VLLM_KERNELS_TORCH_RESULTS_H_

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <optional>

#include "torch/convert.h"

namespace vk::binding {

using SizeList = torch::headeronly::IntHeaderOnlyArrayRef;

// Refuses a tensor of another number of dimensions; `want` names them: "[M, K]".
void CheckDims(const char* op, const char* name, const Tensor& tensor, int64_t dims,
               const char* want);

// Bytes of the computer's memory, and of the current GPU's (cuda_memory.cc).
int64_t HostMemory();
int64_t GpuMemory();

// Refuses sizes that no tensor beside `like` can have: below 0, beyond what 63 bits count, or of
// more bytes than `memory` says there are. `dtype`: that of `like` where there is none.
void CheckRoom(const char* op, const char* name, const Tensor& like, SizeList sizes,
               std::optional<ScalarType> dtype, int64_t (*memory)() = HostMemory);

// Tensors beside `like`; refused as above.
inline Tensor NewEmpty(const char* op, const char* name, const Tensor& like, SizeList sizes,
                       std::optional<ScalarType> dtype = std::nullopt,
                       int64_t (*memory)() = HostMemory) {
  CheckRoom(op, name, like, sizes, dtype, memory);
  return torch::stable::new_empty(like, sizes, dtype);
}
inline Tensor NewZeros(const char* op, const char* name, const Tensor& like, SizeList sizes,
                       std::optional<ScalarType> dtype = std::nullopt) {
  CheckRoom(op, name, like, sizes, dtype);
  return torch::stable::new_zeros(like, sizes, dtype);
}

}  // namespace vk::binding
#endif  // VLLM_KERNELS_TORCH_RESULTS_H_
