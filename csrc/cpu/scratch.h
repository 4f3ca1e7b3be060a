// Memory that kernels work in.
#ifndef VLLM_KERNELS_CPU_SCRATCH_H_
#define VLLM_KERNELS_CPU_SCRATCH_H_

#include <cstddef>
#include <memory>

namespace vk {

constexpr size_t kCacheLine = 64;

struct FreeDeleter {
  void operator()(void* memory) const;
};
using Bytes = std::unique_ptr<char, FreeDeleter>;

// Uninitialised memory, aligned to cache lines; large blocks to huge pages, which it asks for:
// streaming weights through 4 KiB pages spends its time in page walks. Throws std::bad_alloc.
Bytes AllocateBytes(size_t size);

// Memory that lives as long as the calling thread and only grows: allocating megabytes for every
// call would spend more time on page faults than on small products. One block a thread: what a call
// holds is lost when another call of the same thread asks.
char* ThreadScratch(size_t size);

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_SCRATCH_H_
