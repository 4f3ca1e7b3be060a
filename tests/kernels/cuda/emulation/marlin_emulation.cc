// The kernel of csrc/cuda/wna16/marlin/kernel.cuh, thread by thread on the CPU, against float64.
// Prints one line a case; exits with 1 where one is wrong.
#define VK_WNA16_EMULATE
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "cuda/wna16/marlin/kernel.cuh"
#include "cuda/wna16/marlin/plan.h"

namespace {

using namespace vk::cuda::wna16;

struct Case {
  int m, n, k, group, sms;
  bool bias;
};

// The engine's lists of columns, from its Python, not from layout.h.
std::vector<int> ScaleOrder(int n, bool per_channel) {
  std::vector<int> order;
  for (int block = 0; block < n; block += per_channel ? 32 : 64) {
    if (per_channel) {
      for (int i = 0; i < 4; ++i) {
        for (int j : {0, 1, 8, 9, 16, 17, 24, 25}) order.push_back(block + 2 * i + j);
      }
    } else {
      for (int i = 0; i < 8; ++i) {
        for (int j = 0; j < 8; ++j) order.push_back(block + i + 8 * j);
      }
    }
  }
  return order;
}

float Fp8(int bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  const float value =
      exponent == 0 ? mantissa / 512.f : std::ldexp(1.f + mantissa / 8.f, exponent - 7);
  return bits & 128 ? -value : value;
}

template <class T, WeightType kType, class S>
bool Check(const Case& c, int shape) {
  std::mt19937 random(static_cast<unsigned>(c.m * 7 + c.n + c.k + c.group));
  std::normal_distribution<float> normal;
  constexpr int kBits = Bits(kType);
  const bool per_channel = c.group == c.k;
  const int groups = c.k / c.group, pack = 32 / kBits;
  const int64_t lda = c.k + 8;

  std::vector<uint16_t> a(static_cast<size_t>(c.m) * lda), scales(groups * c.n), bias(c.n);
  std::vector<float> scale_values(groups * c.n);
  for (auto& x : a) x = T::FromFloat(normal(random));
  std::vector<int> q(static_cast<size_t>(c.k) * c.n), zero(groups * c.n);
  for (int& x : q) {
    do x = static_cast<int>(random() % (1u << kBits));
    while (kType == WeightType::kFp8 && (x & 127) == 127);
  }
  for (int& x : zero) x = static_cast<int>(random() % 16);

  const std::vector<int> order = ScaleOrder(c.n, per_channel);
  const std::vector<int> channel_order = ScaleOrder(c.n, true);
  const std::vector<int> group_order = ScaleOrder(c.n, false);
  for (int g = 0; g < groups; ++g) {
    for (int p = 0; p < c.n; ++p) {
      float s = 0.01f + 0.02f * static_cast<float>(random() % 100) / 100;
      if (kType == WeightType::kFp8) s = std::ldexp(s, std::is_same_v<T, Fp16Arithmetic> ? 8 : 120);
      scales[g * c.n + p] = T::FromFloat(s);
      s = T::ToFloat(scales[g * c.n + p]);
      if (kType == WeightType::kFp8)
        s = std::ldexp(s, std::is_same_v<T, Fp16Arithmetic> ? -8 : -120);
      scale_values[g * c.n + order[p]] = s;
    }
  }
  std::vector<float> bias_values(c.n);
  for (int p = 0; p < c.n; ++p) {
    bias[p] = T::FromFloat(normal(random));
    bias_values[channel_order[p]] = c.bias ? T::ToFloat(bias[p]) : 0;
  }
  std::vector<uint32_t> zeros(groups * c.n / 8);
  const int interleave[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  for (int g = 0; g < groups; ++g) {
    for (int word = 0; word < c.n / 8; ++word) {
      for (int i = 0; i < 8; ++i) {
        zeros[g * c.n / 8 + word] |=
            static_cast<uint32_t>(zero[g * c.n + group_order[word * 8 + interleave[i]]]) << (4 * i);
      }
    }
  }
  std::vector<uint32_t> weights(static_cast<size_t>(c.k) * c.n / pack);
  for (size_t index = 0; index < weights.size(); ++index) {
    const int unit = static_cast<int>(index) / PackedTileWords(kBits);
    for (int e = 0; e < pack; ++e) {
      const Place place =
          PackedTilePlace(kBits, static_cast<int>(index) % PackedTileWords(kBits), e);
      const int row = unit % (c.k / 16) * 16 + place.k, column = unit / (c.k / 16) * 64 + place.n;
      weights[index] |= static_cast<uint32_t>(q[static_cast<size_t>(row) * c.n + column])
                        << (kBits * e);
    }
  }

  MarlinPlanOverride force;
  force.shape = shape;
  const MarlinPlan plan = MakeMarlinPlan(c.m, c.n, c.k, kType, {c.sms, 227 * 1024}, c.sms, force);
  std::vector<uint16_t> out(static_cast<size_t>(c.m) * c.n, 0x7fff);
  std::vector<float> partials(plan.partial_bytes / 4 + 4, NAN);
  std::vector<int32_t> locks(c.sms);
  MarlinParams p{};
  p.a = a.data();
  p.lda = lda;
  p.weights = weights.data();
  p.scales = scales.data();
  p.zeros = zeros.data();
  p.bias = c.bias ? bias.data() : nullptr;
  p.c = out.data();
  p.partials = partials.data();
  p.locks = locks.data();
  p.m = c.m;
  p.n = c.n;
  p.k = c.k;
  p.group = c.group;
  p.group_magic = GroupMagic(c.group);
  p.per_channel = per_channel;
  p.m_tiles = plan.m_tiles;
  p.n_tiles = plan.n_tiles;
  p.k_steps = plan.k_steps;
  p.steps = plan.steps;
  p.block_steps = plan.block_steps;
  p.lock_by_tile = plan.lock_by_tile;
  p.stages = plan.stages;
  std::vector<int> blocks(plan.blocks);
  for (int i = 0; i < plan.blocks; ++i) blocks[i] = i;
  std::shuffle(blocks.begin(), blocks.end(), random);
  for (int block : blocks) {
    std::memset(vk_shared, 0xee, sizeof(vk_shared));
    emulation::RunBlock(block, plan.blocks, S::kThreads,
                        [&] { MarlinKernel<T, kType, S, false>(p); });
  }

  double worst = 0, norm = 0, error = 0;
  for (int m = 0; m < c.m; ++m) {
    for (int n = 0; n < c.n; ++n) {
      double sum = 0;
      for (int k = 0; k < c.k; ++k) {
        const int g = k / c.group, value = q[static_cast<size_t>(k) * c.n + n];
        double w = kType == WeightType::kU4B8     ? value - 8
                   : kType == WeightType::kU4     ? value - zero[g * c.n + n]
                   : kType == WeightType::kU8B128 ? value - 128
                                                  : Fp8(value);
        sum += T::ToFloat(a[m * lda + k]) * w * scale_values[g * c.n + n];
      }
      sum += bias_values[n];
      const double got = T::ToFloat(out[static_cast<size_t>(m) * c.n + n]);
      const double difference = std::isnan(got) ? 1e30 : std::fabs(got - sum);
      worst = std::max(worst, difference);
      norm += sum * sum;
      error += difference * difference;
    }
  }
  bool clean = true;
  for (int32_t lock : locks) clean = clean && lock == 0;
  const double relative = std::sqrt(error / norm);
  const double limit = std::is_same_v<T, Fp16Arithmetic> ? 4e-4 : 3e-3;
  const bool good = relative < limit && clean;
  std::printf(
      "%s %s type %d shape %d: m %d n %d k %d group %d sms %d -> blocks %d x %d steps, %d "
      "stages: error %.2e%s\n",
      good ? "ok   " : "WRONG", std::is_same_v<T, Fp16Arithmetic> ? "half" : "bf16",
      static_cast<int>(kType), shape, c.m, c.n, c.k, c.group, c.sms, plan.blocks, plan.block_steps,
      plan.stages, relative, clean ? "" : ", locks are not zero");
  return good;
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
  for (int i = plan.blocks - 1; i >= 0; --i) {
    std::memset(vk_shared, 0xee, sizeof(vk_shared));
    emulation::RunBlock(i, plan.blocks, S::kThreads,
                        [&] { MarlinKernel<T, WeightType::kU4B8, S, true>(p); });
  }
  double norm = 0, error = 0;
  bool good = true;
  for (int row = 0; row < kRows; ++row) {
    const int expert = expert_of[row];
    std::vector<double> sum(kN);
    for (int unit = 0; expert >= 0 && unit < kK / 16 * kN / 64; ++unit) {
      for (int word = 0; word < PackedTileWords(4); ++word) {
        for (int e = 0; e < 8; ++e) {
          const Place place = PackedTilePlace(4, word, e);
          const int k = unit % (kK / 16) * 16 + place.k, n = unit / (kK / 16) * 64 + place.n;
          const uint32_t q =
              weights[expert * kK * kN / 8 + unit * PackedTileWords(4) + word] >> (4 * e);
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
  for (int32_t lock : locks) good = good && lock == 0;
  good = good && std::sqrt(error / norm) < 3e-3;
  std::printf("%s experts, tiles of %d, %d blocks: error %.2e\n", good ? "ok   " : "WRONG", block,
              plan.blocks, std::sqrt(error / norm));
  return good;
}

template <class T, WeightType kType>
bool CheckAll(const std::vector<Case>& cases) {
  bool good = true;
  for (const Case& c : cases) {
    int shape = 0;
#define VK_CHECK_SHAPE(tokens, n, k)                                   \
  good = Check<T, kType, MarlinShape<tokens, n, k>>(c, shape) && good; \
  ++shape;
    VK_WNA16_MARLIN_SHAPES(VK_CHECK_SHAPE)
  }
  return good;
}

}  // namespace

int main() {
  const std::vector<Case> cases = {
      {3, 192, 576, 64, 3, true}, {17, 320, 256, 32, 5, false}, {1, 64, 192, 192, 2, true}};
  const std::vector<Case> few = {
      {5, 128, 384, 128, 2, true}, {9, 64, 320, 32, 3, false}, {2, 128, 128, 128, 2, true}};
  bool good = CheckAll<Bf16Arithmetic, WeightType::kU4B8>(cases);
  good = CheckAll<Fp16Arithmetic, WeightType::kU4>(few) && good;
  good = CheckAll<Bf16Arithmetic, WeightType::kU8B128>(few) && good;
  good = CheckAll<Fp16Arithmetic, WeightType::kFp8>(few) && good;
  for (int sms : {1, 5}) {
    good = CheckExperts<MarlinShape<1, 2, 4>>(8, sms) && good;
    good = CheckExperts<MarlinShape<2, 2, 4>>(16, sms) && good;
    good = CheckExperts<MarlinShape<8, 8, 1>>(48, sms) && good;
  }
  return good ? 0 : 1;
}
