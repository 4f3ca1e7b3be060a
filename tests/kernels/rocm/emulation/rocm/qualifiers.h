// A GPU whose threads are fibers that meet at barriers and shuffles: stands for
// csrc/rocm/qualifiers.h. One block runs at a time; its shared memory starts as NaN.
#ifndef VLLM_KERNELS_TESTS_ROCM_QUALIFIERS_H_
#define VLLM_KERNELS_TESTS_ROCM_QUALIFIERS_H_

#include <hip/hip_runtime_api.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#define __host__
#define __device__
#define __global__
#define __shared__ static
#define __forceinline__ inline
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)

using std::isfinite;
using std::isinf;
using std::isnan;
using std::max;
using std::min;

// Lanes of the GPU's wave, 32 or 64: the tests set it.
extern "C" {
inline int vk_emulated_wave = 64;
}

namespace emulation {

constexpr int kHalf = 32;  // lanes that a kernel's warp has
constexpr size_t kSharedBytes = 64 * 1024, kStackBytes = 128 * 1024;

struct Meeting {
  int arrived = 0;
  int64_t generation = 0;
};
struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool done;
};

inline dim3 thread_index, block_index, block_size, grid_size;
inline std::vector<Fiber> fibers;
inline std::vector<Meeting> warps;
inline std::vector<uint32_t> slots;
inline Meeting all;
inline ucontext_t scheduler;
inline int current = 0;
inline std::function<void()> body;
alignas(1024) inline char shared[kSharedBytes];

[[noreturn]] inline void Fail(const char* what) {
  std::fprintf(stderr, "emulation: %s\n", what);
  std::_Exit(2);
}
inline void Yield() { swapcontext(&fibers[current].context, &scheduler); }
inline void Meet(Meeting& meeting, int size) {
  const int64_t generation = meeting.generation;
  if (++meeting.arrived == size) {
    meeting.arrived = 0;
    ++meeting.generation;
    return;
  }
  while (meeting.generation == generation) Yield();
}
inline void MeetWarp() { Meet(warps[current / kHalf], kHalf); }
inline void Entry() {
  body();
  fibers[current].done = true;
  Yield();
}

inline void RunBlock(int threads) {
  fibers.resize(static_cast<size_t>(threads));
  warps.assign(static_cast<size_t>(threads + kHalf - 1) / kHalf, Meeting{});
  slots.assign(static_cast<size_t>(threads), 0);
  all = Meeting{};
  std::fill(std::begin(shared), std::end(shared), static_cast<char>(0xff));
  for (Fiber& fiber : fibers) {
    if (!fiber.stack) fiber.stack.reset(new char[kStackBytes]);
    fiber.done = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, Entry, 0);
  }
  for (int64_t rounds = 0;; ++rounds) {
    bool going = false;
    for (current = 0; current < threads; ++current) {
      if (fibers[static_cast<size_t>(current)].done) continue;
      going = true;
      thread_index.x = static_cast<unsigned>(current);
      swapcontext(&scheduler, &fibers[static_cast<size_t>(current)].context);
    }
    if (!going) return;
    if (rounds > 10'000'000) Fail("the threads wait for each other");
  }
}

inline void Launch(dim3 grid, dim3 block, const std::function<void()>& kernel) {
  body = kernel;
  grid_size = grid;
  block_size = block;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        block_index = dim3(x, y, z);
        RunBlock(static_cast<int>(block.x));
      }
    }
  }
}

// What the sources' kernel<<<grid, block, shared, stream>>>(arguments) is rewritten to.
template <class... Parameters>
auto Launcher(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t = 0, void* = nullptr) {
  return [=](auto... arguments) { Launch(grid, block, [&] { kernel(Parameters(arguments)...); }); };
}

}  // namespace emulation

inline const dim3 &threadIdx = emulation::thread_index, &blockIdx = emulation::block_index;
inline const dim3 &blockDim = emulation::block_size, &gridDim = emulation::grid_size;

#endif  // VLLM_KERNELS_TESTS_ROCM_QUALIFIERS_H_
