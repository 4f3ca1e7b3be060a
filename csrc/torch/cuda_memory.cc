#include <cuda_runtime.h>

#include <limits>

#include "torch/results.h"

namespace vk::binding {

int64_t GpuMemory() {
  size_t available = 0, all = 0;
  if (cudaMemGetInfo(&available, &all) == cudaSuccess) return static_cast<int64_t>(all);
  cudaGetLastError();  // or the next launch would report it
  return std::numeric_limits<int64_t>::max();
}

}  // namespace vk::binding
