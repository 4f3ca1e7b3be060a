// Launches of the kernels' instances, one a file; the index of a table entry is by dtype and size.
#ifndef VLLM_KERNELS_CUDA_ATTENTION_LAUNCH_H_
#define VLLM_KERNELS_CUDA_ATTENTION_LAUNCH_H_

#include <cuda_runtime.h>

#include "cuda/attention/problem.h"

namespace vk::cuda::attention {

// What one instance needs and does. `shared_limit` is the most bytes of shared memory that a block
// may have on the device.
struct Instance {
  int32_t decode_keys;  // of a tile
  // Warps of a decode block (0: its memory does not suffice), and its shared memory in bytes.
  int32_t (*decode_warps)(int64_t shared_limit);
  int64_t (*decode_shared)(int32_t warps);
  int64_t (*prefill_shared)(int32_t stages);
  int32_t prefill_rows;  // of a tile
  void (*decode)(const char* op, const Problem& problem, int32_t warps, cudaStream_t stream);
  void (*prefill)(const char* op, const Problem& problem, int32_t stages, cudaStream_t stream);
};

// kFast: rows that are whole vectors, and pages of multiples of 16 keys.
template <class T, class KV, int kHead, bool kFast>
const Instance& GetInstance();

// Adds up the splits of a decode kernel whose tiles have so many keys.
template <class T>
void LaunchDecodeMerge(const char* op, const Problem& problem, int32_t keys, cudaStream_t stream);

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_CUDA_ATTENTION_LAUNCH_H_
