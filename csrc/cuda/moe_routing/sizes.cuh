// Sizes of the experts' grouped products.
#ifndef VLLM_KERNELS_CUDA_MOE_ROUTING_SIZES_CUH_
#define VLLM_KERNELS_CUDA_MOE_ROUTING_SIZES_CUH_

#include "cuda/moe_routing/launch.h"

namespace vk::cuda::moe_routing {

// Row of an expert's sizes.
__device__ __forceinline__ void WriteSizes(const ProductSizes& sizes, int expert, int tokens) {
  const auto write = [&](int32_t* to, int columns, int k) {
    to[3 * expert] = sizes.swapped ? columns : tokens;
    to[3 * expert + 1] = sizes.swapped ? tokens : columns;
    to[3 * expert + 2] = k;
  };
  write(sizes.first, sizes.first_columns, sizes.k);
  write(sizes.second, sizes.k, sizes.n);
}

}  // namespace vk::cuda::moe_routing
#endif  // VLLM_KERNELS_CUDA_MOE_ROUTING_SIZES_CUH_
