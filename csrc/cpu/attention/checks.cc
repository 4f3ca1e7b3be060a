#include "cpu/attention/checks.h"

#include <cstring>

#include "core/check.h"
#include "core/checked.h"
#include "cpu/round.h"

namespace vk {
namespace {

constexpr int64_t kMaxHeadSize = 1024;

float ToFloat(uint16_t bits, int32_t dtype) {
  float value;
  uint32_t wide = uint32_t{bits} << 16;
  if (dtype == VK_F16) {
    // Not every compiler has a float16 type. The multiplication corrects the exponent, of
    // subnormals too; infinities and NaNs are fixed afterwards.
    const uint32_t sign = wide & 0x80000000u;
    const bool finite = (bits & 0x7c00) != 0x7c00;
    wide = uint32_t{bits & 0x7fffu} << 13;
    std::memcpy(&value, &wide, sizeof(value));
    value *= 0x1p112f;
    std::memcpy(&wide, &value, sizeof(wide));
    wide |= sign | (finite ? 0 : 0x7f800000u);
  }
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

}  // namespace

const float* PerHead(const char* op, const char* name, const vk_tensor* tensor, const Arg& query,
                     std::vector<float>& storage) {
  if (tensor == nullptr) return nullptr;
  const Arg arg(op, name, tensor);
  arg.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(1).Size(0, query.size(1)).Contiguous();
  if (tensor->dtype == VK_F32) return static_cast<const float*>(tensor->data);
  const uint16_t* halves = static_cast<const uint16_t*>(tensor->data);
  for (int64_t i = 0; i < query.size(1); ++i) {
    storage.push_back(ToFloat(halves[i], tensor->dtype));
  }
  return storage.data();
}

void CheckHeadSize(const char* op, int64_t head_size) {
  if (head_size <= 0 || head_size % 8 != 0 || head_size > kMaxHeadSize) {
    Fail(VK_UNSUPPORTED, "%s: head size is %lld, want a multiple of 8 up to %lld", op,
         static_cast<long long>(head_size), static_cast<long long>(kMaxHeadSize));
  }
}

void CheckSizes(const AttentionNames& names, int64_t head_size, int64_t block_size) {
  CheckHeadSize(names.op, head_size);
  if (block_size <= 0 || block_size % 16 != 0 || block_size > kMaxAttentionKeys) {
    Fail(VK_UNSUPPORTED, "%s: %s has blocks of %lld slots, want a multiple of 16", names.op,
         names.cache, static_cast<long long>(block_size));
  }
}

void CheckBlocks(const AttentionNames& names, int64_t index, const AttentionRequest& request,
                 const AttentionProblem& problem, int64_t pages, int64_t blocks) {
  const int32_t first_position = request.seq_len - request.tokens;
  const KeyRange keys = VisibleKeys(request, first_position, request.seq_len - 1, problem.window);
  const int64_t end = CeilDiv(int64_t{keys.end}, problem.block_size);
  VK_CHECK(end <= pages, "%s: request %lld has %d keys, but %s has room for %lld", names.op,
           static_cast<long long>(index), request.seq_len, names.table,
           Print(SaturatingMultiply<int64_t>(pages, problem.block_size)));
  for (int64_t page = keys.begin / problem.block_size; page < end; ++page) {
    VK_CHECK(request.blocks[page] >= 0 && request.blocks[page] < blocks,
             "%s: %s[%lld, %lld] is %d, want 0 to %lld as %s has %lld blocks", names.op,
             names.table, static_cast<long long>(index), Print(page), request.blocks[page],
             static_cast<long long>(blocks - 1), names.cache, static_cast<long long>(blocks));
  }
}

}  // namespace vk
