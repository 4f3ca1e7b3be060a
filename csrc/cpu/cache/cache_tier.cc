#include "cpu/cache/cache.h"
#include "cpu/vec.h"

namespace vk::VK_TIER {

extern const CacheTable cache_table;
const CacheTable cache_table = {0};

}  // namespace vk::VK_TIER
