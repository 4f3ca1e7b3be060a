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
template <int kProducts, class T>
__device__ __forceinline__ void Consume(Consumer<T, 0>& consumer, const Pipeline& pipeline,
                                        int32_t first_pair, int32_t last_pair, int& phase) {
#pragma unroll 1
  for (int32_t pair = first_pair; pair < last_pair; ++pair, phase ^= 1) {
    float scores[kScores];
    consumer.Scores(scores, pipeline, 0, phase);
    float top[2] = {consumer.maximum[0], consumer.maximum[1]}, sums[2], factors[2];
    consumer.Maxima(scores, pair, top);
    consumer.ReleaseScored(pipeline);
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
    consumer.template Values<kProducts>(consumer.weights, pipeline, 0, phase);
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
    consumer.ReleaseValues(pipeline, 0);
    consumer.Rescale(factors);
    consumer.WaitForOther(NamedBarrier::kWeights);
    consumer.ReceiveWeights(consumer.weights);
    consumer.FenceReceived();
    consumer.ReleaseReceived(pipeline);
    consumer.template Values<kProducts>(consumer.weights, pipeline, 1, phase);
    ptx::wgmma_wait_group<0>();
    ptx::warpgroup_fence_operand(consumer.out);
    consumer.ReleaseValues(pipeline, 1);
  }
}

template <int kProducts, class T>
__device__ __forceinline__ void Consume(Consumer<T, 1>& consumer, const Pipeline& pipeline,
                                        int32_t first_pair, int32_t last_pair, int& phase) {
#pragma unroll 1
  for (int32_t pair = first_pair; pair < last_pair; ++pair, phase ^= 1) {
    float scores[kScores];
    consumer.Scores(scores, pipeline, 1, phase);
    float top[2] = {-INFINITY, -INFINITY}, before[2], sums[2], factors[2];
    consumer.Maxima(scores, pair, top);
    consumer.ReleaseScored(pipeline);
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
    uint32_t received[kSteps<T>][4];
    consumer.WaitForOther(NamedBarrier::kWeights);
    consumer.ReceiveWeights(received);
    consumer.template Values<kProducts>(received, pipeline, 0, phase);
    consumer.template Values<kProducts>(consumer.weights, pipeline, 1, phase);
    consumer.FenceReceived();  // products need not wait for it
    ptx::wgmma_wait_group<1>();
    consumer.ReleaseValues(pipeline, 0);
    ptx::wgmma_wait_group<0>();
    ptx::warpgroup_fence_operand(consumer.out);
    consumer.ReleaseValues(pipeline, 1);
  }
}

}  // namespace vk::cuda::mla
#endif  // VLLM_KERNELS_CUDA_MLA_CONSUME_CUH_
