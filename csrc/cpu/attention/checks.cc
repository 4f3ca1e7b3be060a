#include "cpu/attention/checks.h"

#include "core/check.h"
#include "core/checked.h"
#include "cpu/round.h"

namespace vk {

constexpr int64_t kMaxHeadSize = 1024;

void CheckSizes(const AttentionNames& names, int64_t head_size, int64_t block_size) {
  if (head_size <= 0 || head_size % 8 != 0 || head_size > kMaxHeadSize) {
    Fail(VK_UNSUPPORTED, "%s: head size is %lld, want a multiple of 8 up to %lld", names.op,
         static_cast<long long>(head_size), static_cast<long long>(kMaxHeadSize));
  }
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
