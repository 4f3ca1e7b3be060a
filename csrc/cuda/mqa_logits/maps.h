// The tensor map of queries: boxes of all heads of some.
#ifndef VLLM_KERNELS_CUDA_MQA_LOGITS_MAPS_H_
#define VLLM_KERNELS_CUDA_MQA_LOGITS_MAPS_H_

#include "cuda/mqa_logits/launch.h"
#include "cuda/sm90/tensor_map.h"

namespace vk::cuda::mqa_logits {

inline CUtensorMap QueryMap(const char* op, const Queries& queries, int32_t rows, uint32_t box) {
  const uint32_t heads = static_cast<uint32_t>(queries.heads);
  return sm90::EncodeTensorMap<3>(op, queries.data, CU_TENSOR_MAP_DATA_TYPE_UINT8,
                                  {kDepth, heads, static_cast<uint64_t>(rows)},
                                  {queries.head_stride, queries.row_stride}, {kDepth, heads, box});
}

}  // namespace vk::cuda::mqa_logits
#endif  // VLLM_KERNELS_CUDA_MQA_LOGITS_MAPS_H_
