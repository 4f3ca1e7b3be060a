#include <algorithm>
#include <type_traits>

#include "cuda/common/launch.h"
#include "cuda/mla/cuts.cuh"
#include "cuda/mla/kernel.cuh"
#include "cuda/mla/launch.h"
#include "cuda/mla/merge.cuh"
#include "cuda/sm90/tensor_map.h"

namespace vk::cuda::mla {
namespace {

// Boxes of a stage's keys, 128 bytes each.
template <class T>
CUtensorMap StageMap(const char* op, const Problem& p) {
  const CUtensorMapDataType type = kFloat8<T> ? CU_TENSOR_MAP_DATA_TYPE_UINT8
                                              : sm90::Float16MapType(std::is_same_v<T, BFloat16>);
  const uint64_t slots = uint64_t{1} << p.block_shift;
  return sm90::EncodeTensorMap<3>(
      op, p.cache, type, {kHead, slots, static_cast<uint64_t>(p.slots) / slots},
      {int64_t{16} * p.slot_stride, int64_t{16} * p.block_stride}, {128 / sizeof(T), kKeys, 1});
}

template <class T>
void RunType(const char* op, Problem p, cudaStream_t stream) {
  // Tensor maps know no expanded dimensions.
  const bool strided = p.slot_stride > 0 && (p.block_stride > 0 || p.slots == 1 << p.block_shift);
  p.whole_stages = p.block_shift >= kKeyShift && p.slots > 0 && strided;
  CUtensorMap map{};
  if (p.whole_stages) map = StageMap<T>(op, p);
  using Producer = std::conditional_t<kFloat8<T>, Float8Producer, CopyProducer>;
  const unsigned tiles = static_cast<unsigned>(DenseTiles(p.queries, p.heads));
  LaunchKernel(op, &AttentionKernel<T, Producer, DenseWorks>,
               {dim3(tiles, static_cast<unsigned>(p.parts)), dim3(kThreads<Producer>),
                sm90::kSharedBytes<SharedStorage<T>>, stream, /*pdl=*/true},
               p, map);
  if (p.parts > 1) {
    const int32_t entries = std::min(p.batch, p.parts);
    RunMerge<Result<T>, DenseWorks>(op, p, int64_t{p.queries} * p.heads, entries, p.parts / entries,
                                    stream);
  }
}

}  // namespace

void RunSchedule(const char* op, const int32_t* lengths, int32_t batch, int32_t most_keys,
                 int32_t parts, Cut* schedule, cudaStream_t stream) {
  LaunchKernel(op, &ScheduleKernel,
               {dim3(1), dim3(kScheduleThreads), kScheduleThreads / 32, stream},
               PairsOf{lengths, most_keys}, batch, parts, schedule);
}

void RunDense(const char* op, const Problem& p, int32_t dtype, cudaStream_t stream) {
  if (dtype == VK_BF16) {
    RunType<BFloat16>(op, p, stream);
  } else if (dtype == VK_F16) {
    RunType<Half>(op, p, stream);
  } else {
    RunType<E4M3>(op, p, stream);
  }
}

}  // namespace vk::cuda::mla
