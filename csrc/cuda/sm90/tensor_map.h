// Tensor maps, which describe a tensor to TMA.
#ifndef VLLM_KERNELS_CUDA_SM90_TENSOR_MAP_H_
#define VLLM_KERNELS_CUDA_SM90_TENSOR_MAP_H_

#include <cuda.h>
#include <cudaTypedefs.h>

#include <cstdint>

#include "cuda/common/driver.h"

namespace vk::cuda::sm90 {

inline CUtensorMapDataType Float16MapType(bool bfloat16) {
  return bfloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
}

// Boxes of a tensor, in the 128-byte swizzle unless said otherwise, zeros outside of it; strides in
// bytes, of all dimensions but the innermost.
template <int kDims>
CUtensorMap EncodeTensorMap(const char* op, const void* data, CUtensorMapDataType type,
                            const uint64_t (&sizes)[kDims], const int64_t (&strides)[kDims - 1],
                            const uint32_t (&box)[kDims],
                            CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B) {
  static const auto encode =
      FindDriverFunction<PFN_cuTensorMapEncodeTiled_v12000>(op, "cuTensorMapEncodeTiled", 12000);
  cuuint64_t bytes[kDims - 1];
  cuuint32_t steps[kDims];
  for (int dim = 0; dim < kDims; ++dim) {
    steps[dim] = 1;
    // The stride of a dimension of one element means nothing, and may be anything.
    if (dim > 0) bytes[dim - 1] = sizes[dim] > 1 ? strides[dim - 1] : 16;
  }
  CUtensorMap map;
  const CUresult result =
      encode(&map, type, kDims, const_cast<void*>(data), sizes, bytes, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    Fail(VK_INTERNAL, "%s: the driver refused a tensor map (error %d)", op,
         static_cast<int>(result));
  }
  return map;
}

}  // namespace vk::cuda::sm90
#endif  // VLLM_KERNELS_CUDA_SM90_TENSOR_MAP_H_
