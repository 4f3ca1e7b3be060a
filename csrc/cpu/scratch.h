// Scratch memory for kernels.
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

// Bytes of the machine's main memory.
size_t MemorySize();

// Uninitialised memory, aligned to cache lines. Large blocks are aligned to huge pages and ask for
// them: weights streamed through 4 KiB pages spend their time in page walks. Throws std::bad_alloc,
// also where the machine has less: a system that overcommits would grant it.
Bytes AllocateBytes(size_t size);

// Memory that lives as long as the calling thread and only grows: allocating megabytes in every
// call would cost more in page faults than a small GEMM takes. There is one block for each thread,
// so a call's content is lost when the same thread asks again.
char* ThreadScratch(size_t size);

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_SCRATCH_H_
