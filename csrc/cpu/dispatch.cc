#include "cpu/dispatch.h"

#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>

#include "core/cpu_features.h"
#include "core/status.h"

// Weak: a package above the family's lowest level, or a build with an option off, lacks some tiers.
extern "C" {
#define VK_CPU_TIER(tier, needs) \
  extern const vk::TierTable vk_tier_table_##tier __attribute__((weak, visibility("hidden")));
#include "cpu/generated/tiers.inc"
#undef VK_CPU_TIER
}

namespace vk {
namespace {

struct Tier {
  const char* name;
  uint64_t needs;
  const TierTable* table;
};

const Tier kTiers[] = {
#define VK_CPU_TIER(tier, needs) {#tier, needs, &vk_tier_table_##tier},
#include "cpu/generated/tiers.inc"
#undef VK_CPU_TIER
};
constexpr int kTierCount = sizeof(kTiers) / sizeof(kTiers[0]);

bool Built(const Tier& tier) { return tier.table != nullptr; }

bool Runnable(const Tier& tier) {
  return Built(tier) && (vk_cpu_features() & tier.needs) == tier.needs;
}

const Tier& LowestBuilt() {
  for (const Tier& tier : kTiers) {
    if (Built(tier)) return tier;
  }
  Fail(VK_INTERNAL, "this build of vllm-kernels-cpu holds no kernels");
}

// tables[i] serves tier i: its own families, and for the others those of the nearest lower tier
// that needs no feature beyond those of tier i.
std::array<TierTable, kTierCount> MergeTables() {
  std::array<TierTable, kTierCount> merged{};
  for (int i = 0; i < kTierCount; ++i) {
    for (int lower = 0; lower <= i; ++lower) {
      const bool covered = (kTiers[lower].needs & ~kTiers[i].needs) == 0;
      if (!covered || !Built(kTiers[lower])) continue;
#define VK_CPU_FAMILY(family, Table) \
  if (kTiers[lower].table->family != nullptr) merged[i].family = kTiers[lower].table->family;
#include "cpu/generated/families.inc"
#undef VK_CPU_FAMILY
    }
  }
  return merged;
}

std::string TierNames() {
  std::string names;
  for (const Tier& tier : kTiers) {
    if (Built(tier)) names += (names.empty() ? "" : ", ") + std::string(tier.name);
  }
  return names;
}

std::string MissingFeatures(uint64_t needs) {
  std::string names;
  const uint64_t missing = needs & ~vk_cpu_features();
  for (int32_t bit = 0; vk_cpu_feature_name(bit) != nullptr; ++bit) {
    if (missing >> bit & 1)
      names += (names.empty() ? "" : ", ") + std::string(vk_cpu_feature_name(bit));
  }
  return names;
}

int BestTier() {
  for (int i = kTierCount - 1; i >= 0; --i) {
    if (Runnable(kTiers[i])) return i;
  }
  Fail(VK_UNSUPPORTED,
       "this CPU lacks %s, which this build of vllm-kernels-cpu needs; install the build for a "
       "lower microarch level",
       MissingFeatures(LowestBuilt().needs).c_str());
}

int FindTier(const char* name) {
  for (int i = 0; i < kTierCount; ++i) {
    if (!Built(kTiers[i]) || std::strcmp(kTiers[i].name, name) != 0) continue;
    if (Runnable(kTiers[i])) return i;
    Fail(VK_UNSUPPORTED, "tier %s needs %s, which this CPU or its operating system lacks", name,
         MissingFeatures(kTiers[i].needs).c_str());
  }
  Fail(VK_INVALID_ARGUMENT, "unknown CPU tier '%s'; this build has %s", name, TierNames().c_str());
}

constexpr int kUnset = -1;
std::atomic<int> active_tier{kUnset};

int ActiveTier() {
  int tier = active_tier.load(std::memory_order_acquire);
  if (__builtin_expect(tier != kUnset, 1)) return tier;
  const char* forced = std::getenv("VLLM_KERNELS_CPU_ISA");
  tier = forced != nullptr && *forced != '\0' ? FindTier(forced) : BestTier();
  active_tier.store(tier, std::memory_order_release);
  return tier;
}

}  // namespace

const TierTable& Kernels() {
  static const std::array<TierTable, kTierCount> tables = MergeTables();
  return tables[ActiveTier()];
}

}  // namespace vk

extern "C" const char* vk_cpu_isa(void) {
  const char* name = nullptr;
  vk::Guard([&] { name = vk::kTiers[vk::ActiveTier()].name; });
  return name;
}

extern "C" vk_status vk_cpu_set_isa(const char* name) {
  return vk::Guard([&] {
    const int tier = name != nullptr && *name != '\0' ? vk::FindTier(name) : vk::BestTier();
    vk::active_tier.store(tier, std::memory_order_release);
  });
}

extern "C" const char* vk_cpu_tier(int32_t index, int32_t* runnable) {
  for (const vk::Tier& tier : vk::kTiers) {
    if (!vk::Built(tier) || index-- != 0) continue;
    if (runnable != nullptr) *runnable = vk::Runnable(tier);
    return tier.name;
  }
  return nullptr;
}
