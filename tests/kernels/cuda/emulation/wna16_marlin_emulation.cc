// Marlin's kernel of csrc/cuda/wna16 on an emulated GPU, against float64: every block shape, blocks
// in any order. Prints what differs; exit status 1 then.
#include "cuda/wna16/marlin/kernel.cuh"
#include "cuda/wna16/marlin/plan.h"
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
  p.group = c.group;
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

// Products per expert: u4b8, three experts and tiles of one that is not here.
template <class S>
bool CheckExperts(int block, int sms) {
  using T = Bf16Arithmetic;
  constexpr int kExpertCount = 3, kN = 192, kK = 320, kGroup = 64, kTopK = 2, kRows = 2 * 9;
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> a(kRows / kTopK * kK), scales(kExpertCount * kK / kGroup * kN),
      bias(kExpertCount * kN), out(kRows * kN, 0x7fff);
  std::vector<uint32_t> weights(kExpertCount * kK * kN / 8);
  std::vector<float> router(kRows);
  for (auto& x : a) x = T::FromFloat(normal(random));
  for (auto& x : scales) x = T::FromFloat(0.01f + 0.001f * static_cast<float>(random() % 20));
  for (auto& x : bias) x = T::FromFloat(normal(random));
  for (auto& x : weights) x = static_cast<uint32_t>(random());
  for (auto& x : router) x = std::fabs(normal(random));
  // Rows by expert; the last expert's are split over an extra tile, row 5 goes nowhere.
  std::vector<int32_t> sorted, experts, expert_of(kRows, -1);
  for (int expert : {2, 0, -1, 1}) {
    std::vector<int32_t> rows;
    for (int row = 0; row < kRows; ++row) {
      if (row != 5 && row % 3 == expert) rows.push_back(row);
    }
    if (expert < 0) rows = {5};
    while (rows.size() % block != 0) rows.push_back(kRows + 3);
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i] < kRows) expert_of[rows[i]] = expert;
      sorted.push_back(rows[i]);
      if (i % block == 0) experts.push_back(expert);
    }
  }
  const int32_t padded = static_cast<int32_t>(sorted.size());
  sorted.resize(sorted.size() + 100, kRows);
  experts.resize(experts.size() + 10, 1 << 20);
  const MarlinPlan plan =
      MakeMarlinExpertPlan(block, kN, kK, WeightType::kU4B8, {sms, 227 * 1024}, sms);
  std::vector<float> partials(plan.partial_bytes / 4, NAN);
  std::vector<int32_t> locks(sms);
  MarlinParams p{};
  p.a = a.data();
  p.lda = kK;
  p.weights = weights.data();
  p.scales = scales.data();
  p.bias = bias.data();
  p.c = out.data();
  p.partials = partials.data();
  p.locks = locks.data();
  p.m = kRows / kTopK;
  p.n = kN;
  p.k = kK;
  p.group = kGroup;
  p.group_magic = GroupMagic(kGroup);
  p.n_tiles = plan.n_tiles;
  p.k_steps = plan.k_steps;
  p.stages = plan.stages;
  p.experts = {
      sorted.data(), experts.data(), &padded, router.data(), kK * kN / 2, kK / kGroup * kN, 0, kN,
      block,         kTopK,          kRows};
  SetGrid({static_cast<unsigned>(plan.blocks)},
          [&] { MarlinKernel<T, WeightType::kU4B8, S, true>(p); });
  for (int i = plan.blocks - 1; i >= 0; --i) LaunchCluster({static_cast<unsigned>(i)}, S::kThreads);
  double norm = 0, error = 0;
  bool good = true;
  for (int row = 0; row < kRows; ++row) {
    const int expert = expert_of[row];
    std::vector<double> sum(kN);
    for (int tile = 0; expert >= 0 && tile < kK / 16 * kN / 64; ++tile) {
      for (int word = 0; word < PackedTileWords(4); ++word) {
        for (int e = 0; e < 8; ++e) {
          const Place place = PackedTilePlace(4, word, e);
          const int k = tile % (kK / 16) * 16 + place.k, n = tile / (kK / 16) * 64 + place.n;
          const uint32_t q =
              weights[expert * kK * kN / 8 + tile * PackedTileWords(4) + word] >> (4 * e);
          sum[n] +=
              (static_cast<int>(q & 15) - 8.0) * T::ToFloat(a[row / kTopK * kK + k]) *
              T::ToFloat(scales[(expert * kK / kGroup + k / kGroup) * kN + GroupedPosition(n)]);
        }
      }
    }
    for (int n = 0; n < kN; ++n) {
      const uint16_t bits = out[row * kN + n];
      if (expert < 0) {
        good = good && bits == 0x7fff;  // not written
        continue;
      }
      const double want =
          (sum[n] + T::ToFloat(bias[expert * kN + ChannelPosition(n)])) * router[row];
      const double difference = T::ToFloat(bits) - want;
      norm += want * want;
      error += std::isnan(difference) ? 1e30 : difference * difference;
    }
  }
  good = good && Unlocked(locks);
  good = good && std::sqrt(error / norm) < 3e-3;
  if (!good) std::printf("wrong: experts, tiles of %d, %d blocks\n", block, plan.blocks);
  ++checked;
  return good;
}

template <class T, WeightType kType>
bool CheckShapes(const std::vector<Case>& cases) {
  bool right = true;
  for (const Case& c : cases) {
    int shape = 0;
#define VK_CHECK_SHAPE(tokens, n, k) \
  right &= Check<T, kType, MarlinShape<tokens, n, k>>(c, shape++);
    VK_WNA16_MARLIN_SHAPES(VK_CHECK_SHAPE)
#undef VK_CHECK_SHAPE
  }
  return right;
}

}  // namespace

int main() {
  const std::vector<Case> cases = {
      {3, 192, 576, 64, 3, true}, {17, 320, 256, 32, 5, false}, {1, 64, 192, 192, 2, true}};
  bool right = CheckShapes<Bf16Arithmetic, WeightType::kU4B8>(cases);
#ifndef VK_ONE_TYPE
  const std::vector<Case> few = {
      {5, 128, 384, 128, 2, true}, {9, 64, 320, 32, 3, false}, {2, 128, 128, 128, 2, true}};
  right &= CheckShapes<Fp16Arithmetic, WeightType::kU4>(few);
  right &= CheckShapes<Bf16Arithmetic, WeightType::kU8B128>(few);
  right &= CheckShapes<Fp16Arithmetic, WeightType::kFp8>(few);
#endif
  for (int sms : {1, 5}) {
    right &= CheckExperts<MarlinShape<1, 2, 4>>(8, sms);
    right &= CheckExperts<MarlinShape<2, 2, 4>>(16, sms);
    right &= CheckExperts<MarlinShape<8, 8, 1>>(48, sms);
  }
  std::printf("%d products, %d with tiles of several blocks\n", checked, shared_tiles);
  if (shared_tiles == 0) Fail("the cases miss what they are for");
  return right ? 0 : 1;
}
