#include "torch/results.h"

#include <sys/sysinfo.h>

#include <algorithm>
#include <limits>
#include <string>

#include "core/checked.h"
#include "core/dtypes.h"
#include "torch/arguments.h"

namespace vk::binding {
namespace {

// Of dtypes that the C ABI lacks a guess.
int64_t ItemSize(ScalarType type) {
  const int32_t dtype = ToDtype(type);
  return dtype < 0 ? 8 : kDtypes[dtype].bytes;
}

[[noreturn, gnu::cold]] void RefuseSizes(const char* op, const char* name, SizeList sizes,
                                         const std::string& why) {
  Refuse(op, name, " would be of shape " + Sizes(sizes.data(), sizes.size()) + ", " + why);
}

}  // namespace

void CheckDims(const char* op, const char* name, const Tensor& tensor, int64_t dims,
               const char* want) {
  if (tensor.dim() == dims) return;
  Refuse(op, name,
         " has " + std::to_string(tensor.dim()) + " dimensions, want " + std::to_string(dims) +
             ": " + want);
}

int64_t HostMemory() {
  struct sysinfo info;
  if (sysinfo(&info) != 0) return std::numeric_limits<int64_t>::max();
  return SaturatingMultiply<int64_t>(static_cast<int64_t>(info.totalram + info.totalswap),
                                     info.mem_unit);
}

void CheckRoom(const char* op, const char* name, const Tensor& like, SizeList sizes,
               std::optional<ScalarType> dtype, int64_t (*memory)()) {
  // Smaller tensors are not worth a question to the driver.
  constexpr int64_t kLarge = int64_t{1} << 34;
  const int64_t item =
      dtype.has_value() ? ItemSize(*dtype) : static_cast<int64_t>(like.element_size());
  int64_t bytes = item;
  bool empty = false;
  for (const int64_t size : sizes) {
    if (size < 0) RefuseSizes(op, name, sizes, "want no size below 0");
    empty |= size == 0;
    bytes = SaturatingMultiply(bytes, std::max<int64_t>(size, 1));
  }
  if (bytes == std::numeric_limits<int64_t>::max()) {
    RefuseSizes(op, name, sizes, "larger than any memory");
  }
  if (empty || bytes <= kLarge) return;
  const int64_t there = memory();
  if (bytes > there) {
    RefuseSizes(op, name, sizes,
                std::to_string(bytes) + " bytes, more than the " + std::to_string(there) +
                    " of the device's memory");
  }
}

}  // namespace vk::binding
