// output = a b^T for a few rows of a: the time is that of reading b once.
#include "cuda/common/vec.cuh"
#include "cuda/moe_routing/launch.h"
#include "cuda/ptx/mma.cuh"

namespace vk::cuda::moe_routing {
namespace {

constexpr int kWarps = 16;
constexpr int kStep = 32;  // of k, a lane's 16 bytes times 4 lanes
constexpr int kAhead = 4;  // steps whose loads are under way together

__device__ __forceinline__ uint4 Load(const BFloat16* from) {
  return __ldg(reinterpret_cast<const uint4*>(from));
}

// A block computes 8 * kTiles columns of the output; its warps split k. A lane loads 8 neighbouring
// k of its row of a and of b: the sum does not mind which k a fragment calls the first, as long as
// both do alike, so that no shuffle or shared memory stands between memory and the tensor cores.
template <class T, int kTiles>
__global__ void __launch_bounds__(kWarps * 32)
    SmallGemmKernel(const __grid_constant__ SmallGemm gemm) {
  __shared__ float sums[kWarps][kTiles][16 * 8];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int row = lane / 4, part = lane % 4 * 8;
  const int column = static_cast<int>(blockIdx.x) * (8 * kTiles);
  const auto* a = static_cast<const BFloat16*>(gemm.a) + part;
  const auto* b = static_cast<const BFloat16*>(gemm.b) + part;
  const uint4 zero = {0, 0, 0, 0};

  float sum[kTiles][4] = {};
  const int steps = gemm.k / kStep;
  for (int base = warp; base < steps; base += kWarps * kAhead) {
    uint4 low[kAhead], high[kAhead], weight[kAhead][kTiles];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int step = base + i * kWarps;
      const int64_t at = static_cast<int64_t>(step) * kStep;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const int n = column + tile * 8 + row;
        weight[i][tile] = step < steps && n < gemm.n ? Load(b + n * gemm.b_stride + at) : zero;
      }
      low[i] = step < steps && row < gemm.m ? Load(a + row * gemm.a_stride + at) : zero;
      high[i] = step < steps && row + 8 < gemm.m ? Load(a + (row + 8) * gemm.a_stride + at) : zero;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const uint32_t first[4] = {low[i].x, high[i].x, low[i].y, high[i].y};
      const uint32_t second[4] = {low[i].z, high[i].z, low[i].w, high[i].w};
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        ptx::mma_m16n8k16<BFloat16>(sum[tile], first, weight[i][tile].x, weight[i][tile].y,
                                    sum[tile]);
        ptx::mma_m16n8k16<BFloat16>(sum[tile], second, weight[i][tile].z, weight[i][tile].w,
                                    sum[tile]);
      }
    }
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const int at = row * 8 + lane % 4 * 2;
    sums[warp][tile][at] = sum[tile][0];
    sums[warp][tile][at + 1] = sum[tile][1];
    sums[warp][tile][at + 64] = sum[tile][2];
    sums[warp][tile][at + 65] = sum[tile][3];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kTiles * 128; i += kWarps * 32) {
    const int tile = i / 128, m = i % 128 / 8, n = column + tile * 8 + i % 8;
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += sums[w][tile][i % 128];
    if (m < gemm.m && n < gemm.n) {
      static_cast<T*>(gemm.output)[m * gemm.output_stride + n] = FromFloat<T>(total);
    }
  }
}

template <class T>
void Launch(const char* op, const SmallGemm& gemm, cudaStream_t stream) {
  // 16 columns a block halve the reads of a, where there are enough columns for all SMs.
  if (gemm.n >= 16 * CurrentDevice(op).multiprocessors) {
    SmallGemmKernel<T, 2><<<GridX(op, CeilDiv(gemm.n, 16)), kWarps * 32, 0, stream>>>(gemm);
  } else {
    SmallGemmKernel<T, 1><<<GridX(op, CeilDiv(gemm.n, 8)), kWarps * 32, 0, stream>>>(gemm);
  }
}

}  // namespace

void LaunchSmallGemm(const char* op, bool float_output, const SmallGemm& gemm,
                     cudaStream_t stream) {
  if (gemm.m == 0 || gemm.n == 0) return;
  const int32_t capability = CurrentDevice(op).capability;
  if (capability < 80) {
    Fail(VK_UNSUPPORTED, "%s: the GPU is %d.%d, want 8.0 or newer: bfloat16 tensor cores", op,
         capability / 10, capability % 10);
  }
  if (float_output) {
    Launch<float>(op, gemm, stream);
  } else {
    Launch<BFloat16>(op, gemm, stream);
  }
  CheckLaunch(op);
}

}  // namespace vk::cuda::moe_routing
