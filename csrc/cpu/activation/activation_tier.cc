#include "cpu/activation/activation.h"
#include "cpu/vec.h"

namespace vk::VK_TIER {

extern const ActivationTable activation_table;
const ActivationTable activation_table = {0};

}  // namespace vk::VK_TIER
