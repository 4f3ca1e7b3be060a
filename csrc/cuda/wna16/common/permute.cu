// Columns of activations in the order of the weights' rows (act_order).
#include "cuda/wna16/common/permute.h"

#include "core/check.h"
#include "cuda/common/launch.h"
#include "cuda/wna16/wna16.h"

namespace vk::cuda::wna16 {
namespace {

constexpr int kThreads = 256;

// Rows are gathered from: they come from L1 or L2 after the first touch.
__global__ void __launch_bounds__(kThreads) Permute(uint16_t* out, const uint16_t* a, int64_t lda,
                                                    const int32_t* perm, int64_t m, int64_t k) {
  for (int64_t row = blockIdx.y; row < m; row += gridDim.y) {
    const int64_t column = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (column >= k) continue;
    int64_t source = column;
    if (perm != nullptr) {
      source = perm[column];
      source = source < 0 ? 0 : source >= k ? k - 1 : source;
    }
    out[row * k + column] = a[row * lda + source];
  }
}

}  // namespace

void PermuteColumns(const char* op, void* out, const void* a, int64_t lda, const int32_t* perm,
                    int64_t m, int64_t k, cudaStream_t stream) {
  if (m == 0 || k == 0) return;
  const dim3 grid(GridX(op, CeilDiv(k, kThreads)), static_cast<unsigned>(m < 65535 ? m : 65535));
  Permute<<<grid, kThreads, 0, stream>>>(static_cast<uint16_t*>(out),
                                         static_cast<const uint16_t*>(a), lda, perm, m, k);
  CheckLaunch(op);
}

}  // namespace vk::cuda::wna16

namespace wna16 = vk::cuda::wna16;

extern "C" vk_status vk_cuda_permute_cols(const vk_tensor* c, const vk_tensor* a,
                                          const vk_tensor* perm, void* stream) {
  return vk::Guard([&] {
    const char* op = "permute_cols";
    const vk::Arg in(op, "A", a);
    in.Dtype({VK_F16, VK_BF16}).Dims(2).LastDimContiguous();
    vk::Arg(op, "out", c).SameDtype(in).Dims(2).SameShape(in).Contiguous();
    vk::Arg(op, "perm", perm).Dtype({VK_I32}).Dims(1).Size(0, in.size(1)).Contiguous();
    wna16::PermuteColumns(op, c->data, a->data, in.stride(0),
                          static_cast<const int32_t*>(perm->data), in.size(0), in.size(1),
                          static_cast<cudaStream_t>(stream));
  });
}
