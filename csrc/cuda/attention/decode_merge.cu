#include "cuda/attention/decode_merge.cuh"

#include "cuda/attention/launch.h"
#include "cuda/common/launch.h"

namespace vk::cuda::attention {
namespace {

// More splits than this are several warps' to add up.
constexpr int32_t kWarpSplits = 8;

template <class T, int kTeam>
void Launch(const char* op, const Problem& problem, int32_t keys, cudaStream_t stream) {
  const int64_t rows = int64_t{problem.kv_heads} * problem.decode_rows;
  const dim3 grid(GridX(op, CeilDiv(rows, MergeRows(kTeam))),
                  static_cast<unsigned>(problem.requests));
  const auto launch = [&](auto kernel) {
    LaunchPdl(op, kernel, grid, 32 * kTeam * MergeRows(kTeam), MergeSharedBytes(kTeam), stream,
              problem, keys);
  };
  if (problem.value_head_size % 4 == 0) {
    launch(&DecodeMergeKernel<T, kTeam, 4>);
  } else {
    launch(&DecodeMergeKernel<T, kTeam, 1>);
  }
}

}  // namespace

template <class T>
void LaunchDecodeMerge(const char* op, const Problem& problem, int32_t keys, cudaStream_t stream) {
  if (problem.splits <= kWarpSplits) return Launch<T, 1>(op, problem, keys, stream);
  Launch<T, 8>(op, problem, keys, stream);
}

template void LaunchDecodeMerge<BFloat16>(const char*, const Problem&, int32_t, cudaStream_t);
template void LaunchDecodeMerge<Half>(const char*, const Problem&, int32_t, cudaStream_t);

}  // namespace vk::cuda::attention
