// Collectives over the GPUs of one machine that read each other's memory (NVLink or PCIe peers, no
// multicast), for messages for which NCCL's start takes longer than the transfer. Tensors are on
// the current GPU; work is enqueued on `stream` (a cudaStream_t), and nothing is waited for on the
// host, so every collective can be captured in a CUDA graph.
//
// A communicator is one rank's view of the group, made from addresses: of signals (shared memory
// that starts with vk_cuda_meta_size() zero bytes and has room for the largest message behind them)
// and of buffers, in the order of the ranks, as this process sees them. The functions trust that
// each address is what it is said to be, that all ranks make the same calls in the same order, one
// stream at a time, and that no rank frees memory before all have left. A rank whose peer never
// comes waits without end, as with NCCL.
#ifndef VLLM_KERNELS_CUDA_ALL_REDUCE_ALL_REDUCE_H_
#define VLLM_KERNELS_CUDA_ALL_REDUCE_ALL_REDUCE_H_

#include <stdbool.h>

#include "core/abi.h"

extern "C" {

// Bytes of signals, before the room for sums.
VK_EXPORT int64_t vk_cuda_meta_size(void);

// `*address`: `size` zero bytes on the current GPU, and in `handle` what another process opens them
// by. Freed by vk_cuda_free_shared_buffer on the same GPU.
#define VK_CUDA_IPC_HANDLE_BYTES 64
VK_EXPORT vk_status vk_cuda_allocate_shared_buffer(int64_t size, int64_t* address,
                                                   uint8_t handle[VK_CUDA_IPC_HANDLE_BYTES]);
VK_EXPORT vk_status vk_cuda_free_shared_buffer(int64_t address);
// `*address`: the memory of another process's handle, seen from the current GPU.
//   mem_handle: [64], uint8, contiguous, on the CPU
VK_EXPORT vk_status vk_cuda_open_mem_handle(const vk_tensor* mem_handle, int64_t* address);

// A communicator of `ranks` (2, 4, 6 or 8) ranks.
//   signals: each rank's, 128-byte aligned
//   rank_data: uint8, contiguous: room for the addresses of buffers, 64 bytes for each that is
//     registered or captured
//   fully_connected: whether each pair of GPUs is linked; more than two have to be
VK_EXPORT vk_status vk_cuda_init_custom_ar(const int64_t* signals, int64_t ranks,
                                           const vk_tensor* rank_data, int64_t rank,
                                           bool fully_connected, int64_t* communicator);
VK_EXPORT vk_status vk_cuda_dispose(int64_t communicator);

// The buffer at buffers[rank] is read by peers at the other addresses.
VK_EXPORT vk_status vk_cuda_register_buffer(int64_t communicator, const int64_t* buffers,
                                            int64_t ranks);

// Inputs of all-reduces that were captured since the last registration, in their order: their
// number, then the handles of the memory that they lie in (64 bytes each) and where.
VK_EXPORT vk_status vk_cuda_graph_buffers(int64_t communicator, int64_t* count);
VK_EXPORT vk_status vk_cuda_graph_buffer_handles(int64_t communicator, int64_t count,
                                                 uint8_t* handles, int64_t* offsets);
// The same of all ranks, one rank after the other. To be called before the graph is launched.
VK_EXPORT vk_status vk_cuda_register_graph_buffers(int64_t communicator, int64_t ranks,
                                                   int64_t count, const uint8_t* handles,
                                                   const int64_t* offsets);

// out = sum of the ranks' inp, added in their order in float32 and rounded once: the same bits on
// every rank.
//   inp, out: float32 | bfloat16 | float16, the same shape and strides, without gaps (any order of
//     dimensions), 16-byte aligned, a multiple of 16 bytes
//   reg_buffer: this rank's address of a registered buffer of reg_buffer_sz_bytes bytes, to which
//     inp is copied. 0: peers read inp itself, which must be registered, or the call is captured
VK_EXPORT vk_status vk_cuda_all_reduce(int64_t communicator, const vk_tensor* inp,
                                       const vk_tensor* out, int64_t reg_buffer,
                                       int64_t reg_buffer_sz_bytes, void* stream);

// out: the ranks' inp one after the other; any dtype, contiguous, inp a multiple of 16 bytes, which
// reg_buffer holds.
VK_EXPORT vk_status vk_cuda_custom_all_gather(int64_t communicator, const vk_tensor* inp,
                                              const vk_tensor* out, int64_t reg_buffer,
                                              int64_t reg_buffer_sz_bytes, void* stream);
// out: this rank's share of the sum of the ranks' inp, whose first dimension is cut into as many
// parts as there are ranks; dtypes as of all_reduce, contiguous, out a multiple of 16 bytes.
VK_EXPORT vk_status vk_cuda_custom_reduce_scatter(int64_t communicator, const vk_tensor* inp,
                                                  const vk_tensor* out, int64_t reg_buffer,
                                                  int64_t reg_buffer_sz_bytes, void* stream);

// q_out and k_out: the first q_size and the next kv_size columns of qkv, each divided by its root
// mean square over all ranks' columns, times its weight; in float32, rounded once. Every rank calls
// with as many tokens.
//   qkv: [at most 2048 tokens, at least q_size + kv_size], float32 | bfloat16 | float16, last
//     dimension contiguous, rows 16-byte aligned; sizes are multiples of 16 bytes
//   norm_weight_q, norm_weight_k: [q_size], [kv_size], qkv's dtype or float32
//   workspace: int64 [3 * nranks + 2], addresses on this GPU, which are trusted: from 2 * nranks on
//     that of each rank's sums (three areas of as many bytes, float32 -0 at first), then of int32
//     {0, 0, 0} and of int64 {0, bytes of an area}; an area takes 16384 * nranks bytes
//   q_out, k_out: [tokens, q_size], [tokens, kv_size], contiguous
VK_EXPORT vk_status vk_cuda_minimax_allreduce_rms_qk(
    const vk_tensor* qkv, const vk_tensor* norm_weight_q, const vk_tensor* norm_weight_k,
    const vk_tensor* workspace, int64_t q_size, int64_t kv_size, int64_t rank, int64_t nranks,
    double eps, const vk_tensor* q_out, const vk_tensor* k_out, void* stream);

}  // extern "C"

#endif  // VLLM_KERNELS_CUDA_ALL_REDUCE_ALL_REDUCE_H_
