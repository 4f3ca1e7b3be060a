#include "cuda/norm/kernel.cuh"

namespace vk::cuda::norm {
namespace {

// Short rows (the heads of a query or key norm): kLanes lanes a row, no shared memory, no barrier.
template <class T, int kLanes>
__global__ void __launch_bounds__(256) ShortNormKernel(const __grid_constant__ Problem problem) {
  PdlPrologue();
  constexpr int N = kVecSize<T>;
  const int64_t index = int64_t{blockIdx.x} * (256 / kLanes) + threadIdx.x / kLanes;
  const int64_t column = static_cast<int64_t>(threadIdx.x % kLanes) * N, width = problem.width;
  const bool active = index < problem.rows && column < width;
  float x[N] = {}, w[N];
  const T* weight = static_cast<const T*>(problem.weight);
  if (active) {
    const T* row = static_cast<const T*>(problem.input) + problem.input_rows.Offset(index);
    LoadVector<true>(row, column, width, x);
    if (weight != nullptr) {
      if (problem.weight_stride != 0) {
        weight += index / problem.rows_per_weight * problem.weight_stride;
      }
      LoadVector<true>(weight, column, width, w);
    }
  }
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < N; ++i) sum = fmaf(x[i], x[i], sum);
  sum = ReduceLanes<kLanes>(sum, Sum());
  if (!active) return;
  const float factor = rsqrtf(fmaf(sum, problem.inverse_width, problem.epsilon));
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] *= factor;
  if (weight != nullptr) {
    RoundAll<T>(x);
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] *= w[i];
  }
  T* result = static_cast<T*>(problem.result) + problem.result_rows.Offset(index);
  StoreVector<true>(result, column, width, x);
}

template <class T>
void LaunchShort(const Problem& problem, const Launch& launch) {
  const int64_t vectors = problem.width / kVecSize<T>;
  const auto run = [&](auto kernel, int lanes) {
    const unsigned blocks = GridX(launch.op, CeilDiv(problem.rows, 256 / lanes));
    LaunchPdl(launch.op, kernel, blocks, 256, 0, launch.stream, problem);
  };
  if (vectors > 16) return run(ShortNormKernel<T, 32>, 32);
  if (vectors > 8) return run(ShortNormKernel<T, 16>, 16);
  return run(ShortNormKernel<T, 8>, 8);
}

}  // namespace

void LaunchPlain(const Problem& problem, const Launch& launch) {
  if (problem.rows == 0 || problem.width == 0) return;
  if (problem.residual == nullptr && launch.aligned) {
    bool done = false;
    DispatchFloating(launch.dtype, [&](auto type) {
      using T = typename decltype(type)::type;
      done = problem.width <= 32 * kVecSize<T>;
      if (done) LaunchShort<T>(problem, launch);
    });
    if (done) return;
  }
  LaunchKind<Kind::kPlain, Type>(problem, launch);
}

}  // namespace vk::cuda::norm
