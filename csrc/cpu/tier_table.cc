// The one exported symbol of a tier's island. VK_HAS_<family> comes from targets.toml.
#include "cpu/dispatch.h"

#define VK_CONCAT_(a, b) a##b
#define VK_CONCAT(a, b) VK_CONCAT_(a, b)

namespace vk::VK_TIER {
#define VK_CPU_FAMILY(family, Table) extern const Table family##_table;
#include "cpu/generated/families.inc"
#undef VK_CPU_FAMILY

template <bool kPresent, class Table>
constexpr const Table* TableOrNull(const Table& table) {
  if constexpr (kPresent) return &table;
  return nullptr;
}
}  // namespace vk::VK_TIER

extern "C" const vk::TierTable VK_CONCAT(vk_tier_table_, VK_TIER) = {
#define VK_CPU_FAMILY(family, Table) \
  vk::VK_TIER::TableOrNull<VK_HAS_##family>(vk::VK_TIER::family##_table),
#include "cpu/generated/families.inc"
#undef VK_CPU_FAMILY
};
