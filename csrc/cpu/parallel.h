// How work is spread over threads: OpenMP, on the one libgomp that PyTorch uses too, so that
// torch.set_num_threads() and OMP_NUM_THREADS govern our kernels and no second pool competes.
#ifndef VLLM_KERNELS_CPU_PARALLEL_H_
#define VLLM_KERNELS_CPU_PARALLEL_H_

#include <omp.h>

#include <algorithm>
#include <cstdint>

#include "cpu/round.h"

namespace vk {

// Calls body(begin, end) on disjoint ranges that cover [0, count), each of at least `grain`
// iterations. Small work stays on the calling thread: waking the pool costs some microseconds.
// `body` must not throw: validate before.
template <class Body>
void ParallelFor(int64_t count, int64_t grain, const Body& body) {
  if (count <= 0) return;
  const int64_t chunks = count / std::max<int64_t>(grain, 1);
  const int threads = static_cast<int>(std::min<int64_t>(omp_get_max_threads(), chunks));
  if (threads <= 1 || omp_in_parallel()) {
    body(int64_t{0}, count);
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    const int64_t share = CeilDiv(count, omp_get_num_threads());
    const int64_t begin = omp_get_thread_num() * share;
    const int64_t end = std::min(count, begin + share);
    if (begin < end) body(begin, end);
  }
}

// The number of iterations that moves about 256 KiB, which takes a thread some 5 us. For less work
// a second thread costs about as much as it saves, and far more where cores are shared with other
// processes.
inline int64_t GrainFor(int64_t bytes_per_iteration) {
  return std::max<int64_t>(1, 262144 / std::max<int64_t>(1, bytes_per_iteration));
}

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_PARALLEL_H_
