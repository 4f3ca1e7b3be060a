// Between the checks (rope.cc) and the kernels (*.cu). Strides count elements.
#ifndef VLLM_KERNELS_CUDA_ROPE_LAUNCH_H_
#define VLLM_KERNELS_CUDA_ROPE_LAUNCH_H_

#include "cuda/common/fast_div.h"
#include "cuda/common/launch.h"
#include "cuda/common/rows.h"

namespace vk::cuda::rope {

// Cosines and sines by position.
struct Angles {
  const int64_t* positions;
  const void* cache;
  int64_t row_stride, max_position;
  int32_t half;  // pairs of a head: rot_dim / 2
  bool inverse;
};

// query or key
struct Heads {
  void* data;
  RowMap tokens;
  int64_t head_stride;
  uint32_t count;
};

struct Rotation {
  Angles angles;
  Heads query, key;
  int64_t dim_offset;
  int64_t tokens;
};

struct NormRotation {
  Angles angles;
  void* qkv;
  const void* q_weight;
  const void* k_weight;
  int64_t token_stride, tokens;
  uint32_t heads, query_heads;  // of query and key together, and of query
  int32_t head_dim;
  float epsilon;
};

struct Launch {
  const char* op;
  int32_t dtype;     // vk_dtype of the heads
  bool float_cache;  // the cache is float32; else it has the heads' dtype
  bool is_neox;
  bool aligned;  // heads and cache rows are whole 16-byte vectors of the heads' elements
  cudaStream_t stream;
};

void LaunchRotation(const Rotation& rotation, const Launch& launch);
void LaunchNormRotation(const NormRotation& rotation, const Launch& launch);

}  // namespace vk::cuda::rope
#endif  // VLLM_KERNELS_CUDA_ROPE_LAUNCH_H_
