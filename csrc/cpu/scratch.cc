#include "cpu/scratch.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "cpu/round.h"

namespace vk {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

}  // namespace

size_t MemorySize() {
  static const size_t size = [] {
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    return pages > 0 && page > 0 ? static_cast<size_t>(pages) * page : SIZE_MAX;
  }();
  return size;
}

void FreeDeleter::operator()(void* memory) const { std::free(memory); }

Bytes AllocateBytes(size_t size) {
  if (size > MemorySize()) throw std::bad_alloc();
  const size_t alignment = size >= kHugePage ? kHugePage : kCacheLine;
  void* memory = std::aligned_alloc(alignment, RoundUp(std::max<size_t>(size, 1), alignment));
  if (memory == nullptr) throw std::bad_alloc();
  // A hint: where the kernel refuses, the pages stay small.
  if (alignment == kHugePage) madvise(memory, RoundUp(size, alignment), MADV_HUGEPAGE);
  return Bytes(static_cast<char*>(memory));
}

char* ThreadScratch(size_t size) {
  thread_local Bytes memory;
  thread_local size_t capacity = 0;
  if (size > capacity) {
    capacity = 0;
    memory.reset();
    memory = AllocateBytes(size);
    capacity = size;
  }
  return memory.get();
}

}  // namespace vk
