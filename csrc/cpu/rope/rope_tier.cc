#include "cpu/rope/rope.h"
#include "cpu/vec.h"

namespace vk::VK_TIER {

extern const RopeTable rope_table;
const RopeTable rope_table = {0};

}  // namespace vk::VK_TIER
