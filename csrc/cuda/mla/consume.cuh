// What the two consumers do with pairs of stages.
#ifndef VLLM_KERNELS_CUDA_MLA_CONSUME_CUH_
#define VLLM_KERNELS_CUDA_MLA_CONSUME_CUH_

#include <cmath>
#include <cstdint>

#include "cuda/mla/consumer.cuh"
#include "cuda/mla/storage.cuh"
#include "cuda/ptx/wgmma.cuh"

namespace vk::cuda::mla {

// Consumer 0 has the first stage of each pair and the left half of the values.
template <class T>
__device__ __forceinline__ void Consume(Consumer<T, 0>& consumer, const Pipeline& pipeline,
                                        int32_t first_pair, int32_t last_pair, int& phase) {
#pragma unroll 1
  for (int32_t pair = first_pair; pair < last_pair; ++pair, phase ^= 1) {
    float scores[kScores];
    consumer.Scores(scores, pipeline, 0, phase);
    float top[2] = {consumer.maximum[0], consumer.maximum[1]}, sums[2], factors[2];
    consumer.Maxima(scores, pair, top);
    consumer.SendRows(top);
    consumer.Arrive(NamedBarrier::kMaximum);
    consumer.Weigh(scores, top, sums);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      factors[half] = consumer.Factor(consumer.maximum[half], top[half]);
      consumer.sum[half] = consumer.sum[half] * factors[half] + sums[half];
    }
    consumer.Rescale(factors);
    consumer.Round(scores);
    consumer.Values(consumer.weights, 0);
    consumer.WaitForOther(NamedBarrier::kMaximum);
    consumer.ReceiveRows(consumer.maximum);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      factors[half] = consumer.Factor(top[half], consumer.maximum[half]);
      consumer.sum[half] *= factors[half];
    }
    consumer.SendWeights(scores, factors);
    consumer.Arrive(NamedBarrier::kWeights);
    ptx::wgmma_wait_group<0>();
    ptx::warpgroup_fence_operand(consumer.out);
    consumer.Release(pipeline, 0, 0);
    consumer.Rescale(factors);
    consumer.WaitForOther(NamedBarrier::kWeights);
    consumer.ReceiveWeights(consumer.weights);
    consumer.Release(pipeline, 1, 1);
    consumer.Values(consumer.weights, 1);
    ptx::wgmma_wait_group<0>();
    ptx::warpgroup_fence_operand(consumer.out);
    consumer.Release(pipeline, 1, 0);
  }
}

template <class T>
__device__ __forceinline__ void Consume(Consumer<T, 1>& consumer, const Pipeline& pipeline,
                                        int32_t first_pair, int32_t last_pair, int& phase) {
#pragma unroll 1
  for (int32_t pair = first_pair; pair < last_pair; ++pair, phase ^= 1) {
    float scores[kScores];
    consumer.Scores(scores, pipeline, 1, phase);
    float top[2] = {-INFINITY, -INFINITY}, before[2], sums[2], factors[2];
    consumer.Maxima(scores, pair, top);
    consumer.WaitForOther(NamedBarrier::kMaximum);
    consumer.ReceiveRows(before);
#pragma unroll
    for (int half = 0; half < 2; ++half) top[half] = fmaxf(top[half], before[half]);
    consumer.SendRows(top);
    consumer.Arrive(NamedBarrier::kMaximum);
    consumer.Weigh(scores, top, sums);
    consumer.SendWeights(scores, {1.0f, 1.0f});
    consumer.Arrive(NamedBarrier::kWeights);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      factors[half] = consumer.Factor(consumer.maximum[half], top[half]);
      consumer.sum[half] = consumer.sum[half] * factors[half] + sums[half];
      consumer.maximum[half] = top[half];
    }
    consumer.Rescale(factors);
    consumer.Round(scores);
    // The other's stage first: it is wanted again first.
    uint32_t received[kSteps][4];
    consumer.WaitForOther(NamedBarrier::kWeights);
    consumer.ReceiveWeights(received);
    consumer.Values(received, 0);
    consumer.Values(consumer.weights, 1);
    ptx::wgmma_wait_group<1>();
    consumer.Release(pipeline, 0, 1);
    ptx::wgmma_wait_group<0>();
    ptx::warpgroup_fence_operand(consumer.out);
    consumer.Release(pipeline, 1, 1);
  }
}

}  // namespace vk::cuda::mla
#endif  // VLLM_KERNELS_CUDA_MLA_CONSUME_CUH_
