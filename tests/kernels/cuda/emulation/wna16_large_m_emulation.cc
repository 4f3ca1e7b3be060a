// The kernel for many tokens of csrc/cuda/wna16 on an emulated GPU, against float64. Prints what
// differs; exit status 1 then.
#include "cuda/wna16/large_m/kernel.cuh"
#include "cuda/wna16/large_m/plan.h"
#include "wna16_product.h"

VK_EMULATED_SHARED("_ZN2vk4cuda5wna1610vk_large_mE");

namespace {

using namespace emulation;  // NOLINT: everything here is about it

int clusters = 0, uneven = 0, divided = 0, wraps = 0, checked = 0;
unsigned shapes = 0, all_shapes = 0;  // a bit each

template <class T, WeightType kType, class S>
void RunParts(const LargeMPlan& plan, LargeMParams params, const CUtensorMap& map,
              const CUtensorMap& scales) {
  for (int i = 0; i < plan.parts; ++i) {
    const LargeMPart& part = plan.part[i];
    params.first_tile = part.first;
    params.chunks = part.chunks;
    const unsigned cluster = static_cast<unsigned>(part.cluster);
    Launch(
        {static_cast<unsigned>(part.tiles) * cluster}, plan.threads,
        [&] { LargeMKernel<T, kType, S>(params, map, scales); }, cluster);
  }
}

template <class T, WeightType kType>
bool Check(const Case& c, int shared_kib) {
  if (!LargeMServes(c.m, c.group, c.group == c.k, kType, Product<T, kType>::kHalf)) return true;
  Product<T, kType> product(c);
  LargeMClusters most{};  // as if GPCs had no limits
  for (int blocks = 1; blocks <= kLargeMMaxCluster; ++blocks) most.most[blocks] = c.sms / blocks;
  const LargeMPlan plan = MakeLargeMPlan(c.m, c.n, c.k, kType, {c.sms, shared_kib * 1024}, most);
  auto params = product.template Operands<LargeMParams>();
  params.stages = plan.stages;
  params.even_groups = HasEvenGroups(c.group, product.per_channel());
  const CUtensorMap map = Encode({reinterpret_cast<const char*>(product.a.data()),
                                  2,
                                  2,
                                  {c.k, c.m},
                                  {product.lda * 2},
                                  {64, static_cast<uint32_t>(plan.tokens)}});
  const CUtensorMap scales = product.ScaleMap(plan.columns, 1);
  int shape = 0;
  bool exact = true;
#define VK_RUN(tokens, mma_tiles, is_exact)                 \
  if (plan.shape == shape++) {                              \
    using Shape = LargeMShape<tokens, mma_tiles, is_exact>; \
    exact = Shape::kExact;                                  \
    RunParts<T, kType, Shape>(plan, params, map, scales);   \
  }
  VK_WNA16_LARGE_M_SHAPES(VK_RUN)
#undef VK_RUN
  ++checked;
  shapes |= 1u << plan.shape;
  all_shapes = (1u << shape) - 1;
  const LargeMPart& last = plan.part[plan.parts - 1];
  if (last.cluster > 1) ++clusters;
  if (last.cluster % 2 == 1 && last.cluster > 1) ++uneven;
  if (plan.parts > 1) ++divided;
  if (plan.stages < plan.part[0].chunks) ++wraps;
  return product.Right(!exact && !IsFp4(kType));
}

}  // namespace

int main() {
  struct Run {
    Case c;
    int shared_kib;
  };
  const Run runs[] = {
      {{33, 192, 576, 64, 2, true}, 60},     {{65, 64, 512, 128, 20, true}, 60},
      {{50, 128, 320, 320, 1, false}, 60},   {{129, 320, 704, 64, 2, true}, 227},
      {{128, 64, 576, 192, 20, false}, 227}, {{150, 128, 448, 448, 2, true}, 120},
      {{40, 64, 768, 64, 3, true}, 60},      {{130, 64, 1280, 128, 5, true}, 227},
      {{40, 448, 2304, 128, 3, false}, 60},  {{70, 64, 1536, 64, 4, true}, 60},
      {{128, 320, 448, 64, 2, true}, 227},
  };
  for (const Run& run : runs) {
    const auto check = [&]<class T, WeightType kType>() {
      return Check<T, kType>(run.c, run.shared_kib);
    };
    if (!ForAllTypes(check)) return 1;
  }
  std::printf("%d products, %d by clusters, %d of odd ones, %d in parts, %d around the ring\n",
              checked, clusters, uneven, divided, wraps);
  if (clusters == 0 || uneven == 0 || divided == 0 || wraps == 0 || shapes != all_shapes)
    Fail("the cases miss what they are for");
  return 0;
}
