// What the threads of a block of multi-head latent attention share.
#ifndef VLLM_KERNELS_CUDA_MLA_STORAGE_CUH_
#define VLLM_KERNELS_CUDA_MLA_STORAGE_CUH_

#include <cstdint>
#include <type_traits>

#include "cuda/common/dtype.cuh"
#include "cuda/mla/problem.h"
#include "cuda/sm90/pipeline.cuh"
#include "cuda/sm90/shared_storage.cuh"

namespace vk::cuda::mla {

constexpr int kConsumerThreads = 256;
template <class Producer>
constexpr int kProducerThreads = 32 * Producer::kWarps;
template <class Producer>
constexpr int kThreads = kProducerThreads<Producer> + kConsumerThreads;
constexpr int kStages = 2;
constexpr int kKeyShift = 6;  // log2 of the keys of a stage
static_assert(kKeys == 1 << kKeyShift);
// A stage is filled and given back in halves: columns 0 to 255, which consumer 0 multiplies as
// values, and the others with the rope.
constexpr int kHalves = 2;
constexpr int kHalfPanels = kLatent / 64 / kHalves;
constexpr int kPanels = kHead / 64;
constexpr int kPanelBytes = kKeys * 128;
static_assert(kRows == kKeys, "panels of queries and keys are of one size");

using Pipeline = sm90::Pipeline<kStages * kHalves>;

// Products take 32 bytes of their depth at once: weights of a stage are so many operands.
template <class T>
constexpr int kSteps = kKeys * static_cast<int>(sizeof(T)) / 32;
// From a consumer to the other, thread by thread: its weights as the operand of a product.
template <class T>
using Weights = uint4[kSteps<T>][128];
static_assert(sizeof(Weights<BFloat16>) <= kPanelBytes);

struct SharedStorage16 {
  // Panels of 64 columns, 128 bytes a row, in the 128-byte swizzle. The last panel of a stage, the
  // rope, becomes Weights once the scores of the stage are known.
  char query[kPanels][kPanelBytes];
  char keys[kStages][kPanels][kPanelBytes];
  float rows[2][kRows];  // maxima, in the end sums
  typename Pipeline::SharedStorage pipeline;
  uint32_t valid[kStages][2];  // a bit for each key

  __device__ __forceinline__ void* weights_of(int consumer) { return keys[consumer][kPanels - 1]; }
};

// Of float8: products want the summed dimension of both operands contiguous. So values are
// transposed into memory of their own, and the halves that a stage is filled and given back in are
// its keys, and its values.
constexpr int kPanels8 = (kHead + 127) / 128;
struct SharedStorage8 {
  // Panels of 128 columns, in the end those of the result.
  char query[kHalves * kHalfPanels][kPanelBytes];
  char keys[kStages][kPanels8][kPanelBytes];
  char values[kLatent][128];  // a row a column of the keys, 64 bytes a stage; the same swizzle
  Weights<E4M3> weights[2];
  float rows[2][kRows];
  typename Pipeline::SharedStorage pipeline;
  uint32_t valid[kStages][2];

  __device__ __forceinline__ void* weights_of(int consumer) { return weights[consumer]; }
};
template <class T>
constexpr bool kFloat8 = std::is_same_v<T, E4M3>;
template <class T>
using SharedStorage = std::conditional_t<kFloat8<T>, SharedStorage8, SharedStorage16>;
template <class T>
using Result = std::conditional_t<kFloat8<T>, BFloat16, T>;

// Each is waited for by one consumer after the other has arrived.
enum class NamedBarrier {
  kMaximum = 1,  // + the consumer that wrote it
  kWeights = 3,  // the same
  kConsumers = 5,
};
constexpr int BarrierOf(NamedBarrier barrier, int consumer) {
  return static_cast<int>(barrier) + consumer;
}

}  // namespace vk::cuda::mla
#endif  // VLLM_KERNELS_CUDA_MLA_STORAGE_CUH_
