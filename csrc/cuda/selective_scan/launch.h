// Between the checks (selective_scan.cc) and the kernel (scan.cu). Strides count elements.
#ifndef VLLM_KERNELS_CUDA_SELECTIVE_SCAN_LAUNCH_H_
#define VLLM_KERNELS_CUDA_SELECTIVE_SCAN_LAUNCH_H_

#include <cstdint>

#include "cuda/common/launch.h"

namespace vk::cuda::selective_scan {

constexpr int kMostStates = 256;

// [rows, tokens] of each sequence.
struct Rows {
  void* data;
  int64_t sequence, row;
};

// [groups, dstate, tokens] of each sequence.
struct Weights {
  const void* data;
  int64_t sequence, group, state;
};

struct Problem {
  Rows u, delta, z;  // z.data is null without z
  Weights b, c;
  const float* a;
  int64_t a_row, a_state;
  const float* d;
  const float* bias;
  void* states;
  int64_t slot, state_row, slots;  // strides, and their number
  const int32_t* starts;           // null: sequences of `tokens` tokens each
  const int32_t* indices;          // null: slot s
  int64_t indices_stride, columns, column_stride;
  const uint8_t* has_initial;
  // Of states that are kept by block; null without.
  const int32_t* first_block;
  const int32_t* last_block;
  const int32_t* initial;
  const int32_t* chunk_ends;  // and last_chunk: null: chunks are blocks
  const int32_t* last_chunk;
  int32_t chunks;
  int32_t block_size;
  int32_t sequences, tokens, rows, groups, dstate;
  int64_t null_slot;
  bool softplus;
};

struct Launch {
  const char* op;
  int32_t dtype;      // vk_dtype of u
  bool float_states;  // the states are float32; else they have u's dtype
  cudaStream_t stream;
};

void LaunchScan(const Problem& problem, const Launch& launch);

}  // namespace vk::cuda::selective_scan
#endif  // VLLM_KERNELS_CUDA_SELECTIVE_SCAN_LAUNCH_H_
