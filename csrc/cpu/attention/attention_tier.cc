#include "cpu/attention/attention.h"
#include "cpu/vec.h"

namespace vk::VK_TIER {

extern const AttentionTable attention_table;
const AttentionTable attention_table = {0};

}  // namespace vk::VK_TIER
