// Marlin's kernel of csrc/cuda/wna16 on an emulated GPU, against float64: every block shape, blocks
// in any order. Prints what differs; exit status 1 then.
#include "cuda/wna16/marlin/kernel.cuh"
#include "cuda/wna16/marlin/plan.h"
#include "wna16_experts.h"
#include "wna16_product.h"

VK_EMULATED_SHARED("_ZN2vk4cuda5wna169vk_marlinE");

namespace {

using namespace emulation;  // NOLINT: everything here is about it

int checked = 0, shared_tiles = 0;

bool Unlocked(const std::vector<int32_t>& locks) {
  const bool zero = std::all_of(locks.begin(), locks.end(), [](int32_t lock) { return lock == 0; });
  if (!zero) std::printf("locks are not zero\n");
  return zero;
}

template <class T, WeightType kType, class S>
bool Check(const Case& c, int shape) {
  Product<T, kType> product(c);
  MarlinPlanOverride force;
  force.shape = shape;
  const MarlinPlan plan = MakeMarlinPlan(c.m, c.n, c.k, kType, {c.sms, 227 * 1024}, c.sms, force);
  std::vector<float> partials(plan.partial_bytes / 4 + 4, NAN);
  std::vector<int32_t> locks(c.sms);
  auto p = product.template Operands<MarlinParams>();
  p.a = product.a.data();
  p.lda = product.lda;
  p.partials = partials.data();
  p.locks = locks.data();
  p.group = product.c.group;
  p.m_tiles = plan.m_tiles;
  p.n_tiles = plan.n_tiles;
  p.k_steps = plan.k_steps;
  p.steps = plan.steps;
  p.block_steps = plan.block_steps;
  p.lock_by_tile = plan.lock_by_tile;
  p.stages = plan.stages;
  p.prefetch_steps = plan.prefetch_steps;
  std::vector<unsigned> blocks(plan.blocks);
  for (unsigned i = 0; i < blocks.size(); ++i) blocks[i] = i;
  std::shuffle(blocks.begin(), blocks.end(), product.random());
  SetGrid({static_cast<unsigned>(plan.blocks)}, [&] { MarlinKernel<T, kType, S, false>(p); });
  for (const unsigned block : blocks) LaunchCluster({block}, S::kThreads);
  ++checked;
  if (plan.partial_bytes > 0) ++shared_tiles;
  return product.Right(false) && Unlocked(locks);
}

// Products per expert by tiles of `block` on a GPU of `sms` multiprocessors.
template <class S, WeightType kType>
bool CheckExperts(int block, int sms) {
  using Experts = ExpertsProduct<kType>;
  Experts product(block);
  const MarlinPlan plan =
      MakeMarlinExpertPlan(block, 1, product.kN, product.kK, kType, {sms, 227 * 1024}, sms);
  std::vector<float> partials(plan.partial_bytes / 4, NAN);
  std::vector<int32_t> locks(sms);
  auto p = product.template Operands<MarlinParams>();
  p.a = product.a.data();
  p.lda = product.kK;
  p.partials = partials.data();
  p.locks = locks.data();
  p.group = product.kGroup;
  p.n_tiles = plan.n_tiles;
  p.k_steps = plan.k_steps;
  p.stages = plan.stages;
  SetGrid({static_cast<unsigned>(plan.blocks)},
          [&] { MarlinKernel<typename Experts::T, kType, S, true>(p); });
  for (int i = plan.blocks - 1; i >= 0; --i) LaunchCluster({static_cast<unsigned>(i)}, S::kThreads);
  ++checked;
  return product.Right() && Unlocked(locks);
}

template <class T, WeightType kType>
bool CheckShapes(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    int shape = 0;
#define VK_CHECK_SHAPE(tokens, n, k) \
  if (!Check<T, kType, MarlinShape<tokens, n, k>>(c, shape++)) return false;
    VK_WNA16_MARLIN_SHAPES(VK_CHECK_SHAPE)
#undef VK_CHECK_SHAPE
  }
  return true;
}

template <WeightType kType>
bool CheckSizes() {
  for (const int sms : {1, 5}) {
    const bool right = CheckExperts<MarlinShape<1, 2, 4>, kType>(8, sms) &&
                       CheckExperts<MarlinShape<2, 2, 4>, kType>(16, sms) &&
                       CheckExperts<MarlinShape<8, 8, 1>, kType>(48, sms);
    if (!right) return false;
  }
  return true;
}

}  // namespace

int main() {
  const std::vector<Case> cases = {
      {3, 192, 576, 64, 3, true}, {17, 320, 256, 32, 5, false}, {1, 64, 192, 192, 2, true}};
#ifdef VK_ONE_TYPE
  const bool right = CheckShapes<Bf16Arithmetic, WeightType::VK_ONE_TYPE>(cases);
#else
  const std::vector<Case> few = {
      {5, 128, 384, 128, 2, true}, {9, 64, 320, 32, 3, false}, {2, 128, 128, 128, 2, true}};
  const bool right = CheckShapes<Bf16Arithmetic, WeightType::kU4B8>(cases) &&
                     CheckShapes<Fp16Arithmetic, WeightType::kU4>(few) &&
                     CheckShapes<Bf16Arithmetic, WeightType::kU8B128>(few) &&
                     CheckShapes<Fp16Arithmetic, WeightType::kFp8>(few) &&
                     CheckShapes<Bf16Arithmetic, WeightType::kMxFp4>(few) &&
                     CheckShapes<Fp16Arithmetic, WeightType::kNvFp4>(few);
#endif
  if (!right || !CheckSizes<WeightType::kU4B8>() || !CheckSizes<WeightType::kNvFp4>()) return 1;
  std::printf("%d products, %d with tiles of several blocks\n", checked, shared_tiles);
  if (shared_tiles == 0) Fail("the cases miss what they are for");
  return 0;
}
