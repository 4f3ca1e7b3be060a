// Definition of GetInstance(): included by the generated instance files only.
#ifndef VLLM_KERNELS_CUDA_ATTENTION_INSTANCE_CUH_
#define VLLM_KERNELS_CUDA_ATTENTION_INSTANCE_CUH_

#include <algorithm>

#include "cuda/attention/decode.cuh"
#include "cuda/attention/launch.h"
#include "cuda/attention/prefill.cuh"
#include "cuda/common/launch.h"

namespace vk::cuda::attention {

template <class T, class KV, int kHead, bool kFast>
struct Launches {
  using Decode = DecodeTraits<T, KV, kHead>;
  using Prefill = PrefillTraits<T, KV, kHead>;

  static int32_t DecodeWarps(int64_t shared_limit) {
    for (int32_t warps = 4; warps > 0; warps /= 2) {
      if (Decode::SharedBytes(warps) <= shared_limit) return warps;
    }
    return 0;
  }
  static int64_t DecodeShared(int32_t warps) { return Decode::SharedBytes(warps); }
  static int64_t PrefillShared(int32_t stages) { return Prefill::SharedBytes(stages); }

  static void RunDecode(const char* op, const Problem& problem, int32_t warps,
                        cudaStream_t stream) {
    const int64_t shared = DecodeShared(warps);
    const auto kernel = &DecodeKernel<T, KV, kHead, kFast>;
    const int32_t row_tiles = (problem.decode_rows + kDecodeRows - 1) / kDecodeRows;
    const dim3 grid(problem.kv_heads * row_tiles, problem.requests, problem.splits);
    LaunchPdl(op, kernel, grid, 32 * warps, static_cast<size_t>(shared), stream, problem);
    if (problem.splits > 1) LaunchDecodeMerge<T>(op, problem, Decode::kKeys, stream);
  }

  static void RunPrefill(const char* op, const Problem& problem, int32_t stages,
                         cudaStream_t stream) {
    const int64_t shared = PrefillShared(stages);
    const auto kernel = &PrefillKernel<T, KV, kHead, kFast>;
    const int64_t tiles =
        TileCount(problem.tokens, problem.requests, problem.group, Prefill::kRows);
    const dim3 grid(static_cast<unsigned>(tiles), problem.kv_heads);
    LaunchKernel(op, kernel, {grid, dim3(Prefill::kThreads), shared, stream}, problem, stages);
  }
};

template <class T, class KV, int kHead, bool kFast>
const Instance& GetInstance() {
  using L = Launches<T, KV, kHead, kFast>;
  static constexpr Instance instance{L::Decode::kKeys,  &L::DecodeWarps,   &L::DecodeShared,
                                     &L::PrefillShared, L::Prefill::kRows, &L::RunDecode,
                                     &L::RunPrefill};
  return instance;
}

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_CUDA_ATTENTION_INSTANCE_CUH_
