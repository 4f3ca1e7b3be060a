#include "cuda/gemm/few_rows.cuh"

#include "cuda/common/launch.h"
#include "cuda/gemm/tiles.h"
#include "cuda/sm90/tensor_map.h"

namespace vk::cuda::gemm {
namespace {

CUtensorMap Map(const char* op, const void* data, int64_t rows, int64_t k, int64_t stride,
                int box) {
  return sm90::EncodeTensorMap<2>(op, data, CU_TENSOR_MAP_DATA_TYPE_UINT8,
                                  {static_cast<uint64_t>(k), static_cast<uint64_t>(rows)}, {stride},
                                  {kFewRowsDepth, static_cast<uint32_t>(box)});
}

template <int kRows>
void Launch(const Problem& p, const FewRowsPlan& plan) {
  const FewRowsParams params{p.a_scales, p.b_scales,   p.a_scales_ld, p.b_scales_ld,
                             p.out,      p.ldo,        p.m,           p.n,
                             p.k,        plan.m_tiles, plan.chunks,   p.out_dtype == VK_BF16};
  LaunchKernel(p.op, &FewRowsKernel<kRows>,
               {dim3(static_cast<unsigned>(plan.tiles * plan.cluster)), dim3(kFewRowsThreads),
                sm90::kSharedBytes<FewRowsStorage<kRows>>, p.stream, true,
                dim3(static_cast<unsigned>(plan.cluster), 1, 1)},
               params, Map(p.op, p.b, p.n, p.k, p.ldb, kFewRowsColumns),
               Map(p.op, p.a, p.m, p.k, p.lda, kRows));
}

}  // namespace

void LaunchFewRows(const Problem& p, const FewRowsPlan& plan) {
  if (plan.rows == 16) return Launch<16>(p, plan);
  if (plan.rows == 32) return Launch<32>(p, plan);
  Launch<64>(p, plan);
}

}  // namespace vk::cuda::gemm
