// What the Hopper prefill kernel is launched with.
#ifndef VLLM_KERNELS_CUDA_ATTENTION_HOPPER_H_
#define VLLM_KERNELS_CUDA_ATTENTION_HOPPER_H_

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/attention/problem.h"
#include "cuda/common/fast_div.h"

namespace vk::cuda::attention {

// Warpgroups that multiply, of 64 rows of queries each. A third one fills the time in which the
// others compute their softmax where the products of a head are short.
constexpr int HopperConsumers(int head) { return head <= 64 ? 3 : 2; }
constexpr int HopperRows(int head) { return 64 * HopperConsumers(head); }  // of a tile of queries
// Keys of a tile: as many as registers and the stages of shared memory hold.
constexpr int HopperKeys(int head) { return head <= 128 ? 128 : 64; }

struct HopperPlan {
  int32_t tiles;          // of query rows, over all requests
  int32_t tile_rows;      // whole tokens: the largest multiple of the group up to HopperRows()
  int32_t section_heads;  // key/value heads whose work is done together
  int32_t box_keys;       // of one copy: a part of a page or of a tile
  FastDiv group;          // the problem's
  int32_t* counter;       // tiles taken so far beyond the first one of each block
};

// Launches one instance.
template <class T, int kHead>
void LaunchHopper(const char* op, const Problem& problem, const HopperPlan& plan, int32_t blocks,
                  const CUtensorMap (&maps)[3], cudaStream_t stream);

// Whether the Hopper kernel takes the problem (strides, alignment, sizes; not the GPU). A float8
// cache must be dequantized first.
bool HopperServes(const Problem& problem);

// Bytes of the kernel's workspace, to be set to zero by RunHopper().
constexpr int64_t kHopperWorkspace = 16;

// Bytes for copies of the keys and values of a float8 cache in the type of the queries; 0: they are
// too large, or do not pay.
int64_t DequantizedBytes(const Problem& problem, int64_t max_query_len, int64_t max_seq_len);

// Makes the copies, in `memory`; returns the problem with them, packed, instead of the cache.
Problem DequantizeCache(const char* op, const Problem& problem, int32_t dtype, int64_t max_seq_len,
                        void* memory, cudaStream_t stream);

struct HopperCall {
  int32_t dtype;  // VK_BF16 or VK_F16
  int64_t max_seq_len;
  int64_t keys;  // slots of all packed keys; 0: paged
  int32_t multiprocessors;
  int64_t l2_bytes;
  void* workspace;
  cudaStream_t stream;
};
void RunHopper(const char* op, const Problem& problem, const HopperCall& call);

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_CUDA_ATTENTION_HOPPER_H_
