#include <algorithm>

#include "core/check.h"
#include "core/checked.h"
#include "cpu/cache/cache.h"
#include "cpu/scratch.h"
#include "cpu/sequences.h"

namespace {

using vk::Arg;

constexpr const char* kOp = "compute_slot_mapping_kernel_impl";

// Tokens of a request are mostly consecutive, so the block is looked up (with a division) only
// where a position leaves the block of the token before.
class BlockWalk {
 public:
  BlockWalk(int64_t request, const int32_t* blocks, int64_t max_blocks, int64_t block_size)
      : request_(request), blocks_(blocks), max_blocks_(max_blocks), block_size_(block_size) {}

  int64_t Slot(int64_t position) {
    // One unsigned comparison checks both ends.
    if (static_cast<uint64_t>(position) - first_ >= length_) Enter(position);
    return position + shift_;
  }

 private:
  void Enter(int64_t position) {
    const int64_t index = position / block_size_;
    VK_CHECK(position >= 0 && index < max_blocks_,
             "%s: positions has %lld for request %lld, want 0 to %lld (block_table has %lld blocks "
             "of %lld a request)",
             kOp, static_cast<long long>(position), static_cast<long long>(request_),
             static_cast<long long>(vk::SaturatingMultiply(max_blocks_, block_size_) - 1),
             static_cast<long long>(max_blocks_), static_cast<long long>(block_size_));
    VK_CHECK(blocks_[index] >= 0, "%s: block_table[%lld, %lld] is %d, want 0 or more", kOp,
             static_cast<long long>(request_), static_cast<long long>(index), blocks_[index]);
    int64_t end;
    VK_CHECK(vk::Multiply(int64_t{blocks_[index]} + 1, block_size_, &end),
             "%s: block_table[%lld, %lld] is %d, whose slots of block_size %lld pass int64", kOp,
             static_cast<long long>(request_), static_cast<long long>(index), blocks_[index],
             static_cast<long long>(block_size_));
    first_ = index * block_size_;
    length_ = block_size_;
    shift_ = (blocks_[index] - index) * block_size_;
  }

  const int64_t request_;
  const int32_t* const blocks_;
  const int64_t max_blocks_, block_size_;
  uint64_t first_ = 0, length_ = 0;  // length 0: no block yet
  int64_t shift_ = 0;
};

void ComputeSlotMapping(const vk_tensor* query_start_loc, const vk_tensor* positions,
                        const vk_tensor* block_table, const vk_tensor* slot_mapping,
                        int64_t block_size) {
  const Arg starts(kOp, "query_start_loc", query_start_loc), position(kOp, "positions", positions);
  const Arg table(kOp, "block_table", block_table), slots(kOp, "slot_mapping", slot_mapping);
  position.Dtype({VK_I64}).Dims(1).Contiguous();
  table.Dtype({VK_I32}).Dims(2).LastDimContiguous();
  slots.Dtype({VK_I64}).Dims(1).Contiguous();
  VK_CHECK(block_size > 0, "%s: block_size is %lld, want more than 0", kOp,
           static_cast<long long>(block_size));
  const int64_t requests = vk::CheckStarts(starts, kOp, std::min(position.size(0), slots.size(0)),
                                           "elements that positions and slot_mapping both have");
  VK_CHECK(requests <= table.size(0),
           "%s: block_table has shape %s, want a row for each of the %lld requests of "
           "query_start_loc",
           kOp, vk::ShapeString(*block_table).c_str(), static_cast<long long>(requests));
  const int32_t* start = static_cast<const int32_t*>(query_start_loc->data);
  const int64_t* from = static_cast<const int64_t*>(positions->data);
  int64_t* to = static_cast<int64_t*>(slot_mapping->data);
  const int32_t* blocks = static_cast<const int32_t*>(block_table->data);
  // What the walk refuses shows on the way, and until then nothing may have been written.
  const int64_t begin = start[0], count = start[requests] - begin;
  if (count == 0) return;
  int64_t* found = reinterpret_cast<int64_t*>(vk::ThreadScratch(count * sizeof(int64_t)));
  for (int64_t r = 0; r < requests; ++r) {
    BlockWalk walk(r, blocks + r * table.stride(0), table.size(1), block_size);
    for (int64_t t = start[r]; t < start[r + 1]; ++t) found[t - begin] = walk.Slot(from[t]);
  }
  std::copy_n(found, count, to + begin);
}

}  // namespace

extern "C" vk_status vk_cpu_compute_slot_mapping(const vk_tensor* query_start_loc,
                                                 const vk_tensor* positions,
                                                 const vk_tensor* block_table,
                                                 const vk_tensor* slot_mapping,
                                                 int64_t block_size) {
  return vk::Guard([&] {
    ComputeSlotMapping(query_start_loc, positions, block_table, slot_mapping, block_size);
  });
}
