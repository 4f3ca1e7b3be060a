// Names and sizes of the C ABI's dtypes.
#ifndef VLLM_KERNELS_CORE_DTYPES_H_
#define VLLM_KERNELS_CORE_DTYPES_H_

#include <iterator>

#include "core/abi.h"

namespace vk {

struct DtypeInfo {
  const char* name;
  int64_t bytes;
};
// Indexed by vk_dtype.
inline constexpr DtypeInfo kDtypes[] = {{"float32", 4},       {"bfloat16", 2},      {"float16", 2},
                                        {"int8", 1},          {"uint8", 1},         {"int32", 4},
                                        {"int64", 8},         {"bool", 1},          {"float64", 8},
                                        {"float8_e4m3fn", 1}, {"float8_e8m0fnu", 1}};
static_assert(std::size(kDtypes) == VK_F8E8M0 + 1);

}  // namespace vk
#endif  // VLLM_KERNELS_CORE_DTYPES_H_
