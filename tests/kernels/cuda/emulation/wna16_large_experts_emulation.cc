// The kernel for experts of csrc/cuda/wna16 on an emulated GPU, against float64. Prints what
// differs; exit status 1 then.
#include "cuda/wna16/large_experts/gather.cuh"
#include "cuda/wna16/large_experts/kernel.cuh"
#include "cuda/wna16/large_experts/plan.h"
#include "wna16_experts.h"

VK_EMULATED_SHARED("_ZN2vk4cuda5wna1616vk_large_expertsE");

namespace {

using namespace emulation;  // NOLINT: everything here is about it

int wraps = 0, checked = 0;

template <WeightType kType, int kGroup>
bool Check(int block, int tokens, int sms, int shared_kib) {
  using Experts = ExpertsProduct<kType, kGroup>;
  Experts product(block, tokens);
  const LargeExpertsPlan plan =
      MakeLargeExpertsPlan(block, product.kN, kType, {sms, shared_kib * 1024});
  auto params = product.template Operands<LargeExpertsParams>();
  params.n_tiles = plan.n_tiles;
  params.stages = plan.stages;
  params.even_groups = HasEvenGroups(kGroup, false);
  const int places = static_cast<int>(product.sorted.size());
  const int vectors = product.kK / 8;
  std::vector<uint4> gathered(static_cast<size_t>(places) * vectors);
  std::memset(static_cast<void*>(gathered.data()), 0x7f, gathered.size() * sizeof(uint4));  // NaN
  Launch({static_cast<unsigned>(places)}, kGatherThreads, [&] {
    GatherTokensKernel(gathered.data(), reinterpret_cast<const uint4*>(product.a.data()), vectors,
                       vectors, params.experts);
  });
  const CUtensorMap map = Encode({reinterpret_cast<const char*>(gathered.data()),
                                  2,
                                  2,
                                  {product.kK, places},
                                  {product.kK * 2},
                                  {64, static_cast<uint32_t>(block)}});
  const CUtensorMap scales = product.ScaleMap(plan.columns);
  int shape = 0;
#define VK_RUN(tokens)                                                                           \
  if (plan.shape == shape++) {                                                                   \
    using Shape = LargeExpertsShape<tokens>;                                                     \
    Launch({static_cast<unsigned>(plan.blocks)}, plan.threads,                                   \
           [&] { LargeExpertsKernel<typename Experts::T, kType, Shape>(params, map, scales); }); \
  }
  VK_WNA16_LARGE_EXPERTS_SHAPES(VK_RUN)
#undef VK_RUN
  ++checked;
  if (plan.stages < product.kK / 64) ++wraps;
  return product.Right();
}

template <WeightType kType, int kGroup>
bool CheckSizes() {
  for (const int sms : {1, 3}) {
    const bool right =
        Check<kType, kGroup>(8, 9, sms, 60) && Check<kType, kGroup>(16, 40, sms, 227) &&
        Check<kType, kGroup>(32, 60, sms, 80) && Check<kType, kGroup>(48, 9, sms, 110) &&
        Check<kType, kGroup>(64, 120, sms, 110);
    if (!right) return false;
  }
  return true;
}

}  // namespace

int main() {
  const bool right = CheckSizes<WeightType::kU4B8, 64>() && CheckSizes<WeightType::kU4B8, 128>() &&
                     CheckSizes<WeightType::kNvFp4, 64>();
  if (!right) return 1;
  std::printf("%d products, %d around the ring\n", checked, wraps);
  if (wraps == 0) Fail("the cases miss what they are for");
  return 0;
}
