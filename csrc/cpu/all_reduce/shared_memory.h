// Collectives over processes of one machine that share memory: tensor and pipeline parallelism on a
// CPU. Each rank owns a segment that its peers map. A group is one rank's view of them, made in two
// steps with a barrier of the caller between: vk_cpu_shm_init of every rank, then vk_cpu_shm_join
// of every rank. It lasts as long as the process, or until the process makes the same rank of a
// group of the same name again.
//
// Collectives are the same calls in the same order on every rank. One that differs in op, dtype or
// size fails on every rank with what the ranks gave. A call that waits for a rank whose process has
// ended fails with that rank's number; one that waits for a rank that never comes waits on.
//   handle: what vk_cpu_shm_init gave; VK_INVALID_ARGUMENT for any other
//   data: contiguous
#ifndef VLLM_KERNELS_CPU_ALL_REDUCE_SHARED_MEMORY_H_
#define VLLM_KERNELS_CPU_ALL_REDUCE_SHARED_MEMORY_H_

#include "core/abi.h"

extern "C" {

// Makes this rank's segment, which takes 4 MiB of /dev/shm from then on.
//   name: the group's, the same on every rank and no other group's of this user, at most 220 bytes
//   ranks: 1 to 64; rank: this one's, from 0
//   threads: the threads that the engine gives each rank, > 0; ours are those of OpenMP
VK_EXPORT vk_status vk_cpu_shm_init(const char* name, int64_t ranks, int64_t rank, int64_t threads,
                                    int64_t* handle);
// Maps the segments of the other ranks. The last rank to join removes the names of all of them, so
// that nothing stays in /dev/shm however the processes end.
VK_EXPORT vk_status vk_cpu_shm_join(int64_t handle, const char* name);

// data = the sum of the ranks' data, as vk_cpu_rank_sum adds it: the same bits on every rank.
//   data: float32 | bfloat16 | float16
VK_EXPORT vk_status vk_cpu_shm_allreduce(int64_t handle, const vk_tensor* data);

// out = the ranks' data one after the other, in the order of the ranks.
//   data: any dtype; out: data's dtype, ranks * data's elements, contiguous
VK_EXPORT vk_status vk_cpu_shm_all_gather(int64_t handle, const vk_tensor* data,
                                          const vk_tensor* out);

// outs[r] = data of rank r, on rank dst; the other ranks need no outs.
//   data: any dtype; outs: `count` tensors (as many as ranks on dst), each of data's dtype and
//   number of elements, contiguous
VK_EXPORT vk_status vk_cpu_shm_gather(int64_t handle, const vk_tensor* data, const vk_tensor* outs,
                                      int64_t count, int64_t dst);

// A tensor on its way: `bytes` of contiguous elements of the sender's type number `type`.
typedef struct vk_shm_tensor {
  void* data;
  int64_t bytes;
  int32_t type;
  int32_t ndim;
  int64_t shape[VK_MAX_DIMS];
} vk_shm_tensor;

// Sends `count` tensors to rank dst, another one. Returns when the last byte is in shared memory,
// which holds two chunks of this rank's messages, each of 1 MiB at most and of one message: at once
// while there is room, and otherwise as the ranks that they are for take them.
VK_EXPORT vk_status vk_cpu_shm_send(int64_t handle, const vk_shm_tensor* tensors, int64_t count,
                                    int64_t dst);

// Receives what rank src, another one, sent first. `memory(context, tensor)` is called for each
// tensor in their order and returns where its bytes go; null where there is no room, which fails
// the call after the message has been taken whole.
typedef void* (*vk_shm_memory)(void* context, const vk_shm_tensor* tensor);
VK_EXPORT vk_status vk_cpu_shm_receive(int64_t handle, int64_t src, vk_shm_memory memory,
                                       void* context);

}  // extern "C"
#endif  // VLLM_KERNELS_CPU_ALL_REDUCE_SHARED_MEMORY_H_
