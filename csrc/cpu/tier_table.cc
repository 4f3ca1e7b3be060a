// The one exported symbol of a tier's island. VK_HAS_<family> comes from targets.toml.
#include "cpu/activation/activation.h"
#include "cpu/attention/attention.h"
#include "cpu/cache/cache.h"
#include "cpu/dispatch.h"
#include "cpu/gemm/gemm.h"
#include "cpu/moe_gemm/moe_gemm.h"
#include "cpu/norm/norm.h"
#include "cpu/quant/quant.h"
#include "cpu/rope/rope.h"
#include "cpu/wna16/wna16.h"

#define VK_CONCAT_(a, b) a##b
#define VK_CONCAT(a, b) VK_CONCAT_(a, b)

namespace vk::VK_TIER {
#define VK_DECLARE_TABLE(member, Table) extern const Table member##_table;
VK_CPU_FAMILIES(VK_DECLARE_TABLE)
#undef VK_DECLARE_TABLE

template <bool kPresent, class Table>
constexpr const Table* TableOrNull(const Table& table) {
  if constexpr (kPresent) return &table;
  return nullptr;
}
}  // namespace vk::VK_TIER

extern "C" const vk::TierTable VK_CONCAT(vk_tier_table_, VK_TIER) = {
#define VK_TABLE(member, Table) \
  vk::VK_TIER::TableOrNull<VK_HAS_##member>(vk::VK_TIER::member##_table),
    VK_CPU_FAMILIES(VK_TABLE)
#undef VK_TABLE
};
