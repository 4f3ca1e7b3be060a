#include "cuda/all_reduce/kernels.cuh"

namespace vk::cuda::all_reduce {
namespace {

// body(std::integral_constant<int, ranks>()); the checks allow no other number.
template <class Body>
void DispatchRanks(int ranks, const Body& body) {
  if (ranks == 2) return body(std::integral_constant<int, 2>());
  if (ranks == 4) return body(std::integral_constant<int, 4>());
  if (ranks == 6) return body(std::integral_constant<int, 6>());
  return body(std::integral_constant<int, 8>());
}

void Launch(const char* op, void (*kernel)(Problem), int blocks, const Problem& problem,
            cudaStream_t stream) {
  LaunchKernel(op, kernel, {dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, stream},
               problem);
}

}  // namespace

void LaunchAllReduce(const char* op, int32_t dtype, int ranks, bool staged, const Plan& plan,
                     const Problem& problem, cudaStream_t stream) {
  DispatchFloating(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    DispatchRanks(ranks, [&](auto number) {
      constexpr int kRanks = decltype(number)::value;
      DispatchBool(staged, [&](auto copied) {
        constexpr bool kStaged = decltype(copied)::value;
        Launch(
            op,
            plan.two_shot ? TwoShotKernel<T, kRanks, kStaged> : OneShotKernel<T, kRanks, kStaged>,
            plan.blocks, problem, stream);
      });
    });
  });
}

void LaunchReduceScatter(const char* op, int32_t dtype, int ranks, const Problem& problem,
                         cudaStream_t stream) {
  DispatchFloating(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    DispatchRanks(ranks, [&](auto number) {
      Launch(op, ReduceScatterKernel<T, decltype(number)::value>, BlocksOfShare(problem.vectors),
             problem, stream);
    });
  });
}

void LaunchAllGather(const char* op, int ranks, const Problem& problem, cudaStream_t stream) {
  DispatchRanks(ranks, [&](auto number) {
    Launch(op, AllGatherKernel<decltype(number)::value>, BlocksOfShare(problem.vectors), problem,
           stream);
  });
}

}  // namespace vk::cuda::all_reduce
