#include "cpu/sampling/drafting.h"

#include <algorithm>
#include <limits>

#include "core/check.h"

namespace {

using vk::Arg;

// The elements of a contiguous tensor of at least `size`.
template <class T>
T* Elements(const char* op, const char* name, const vk_tensor* tensor, int64_t size,
            vk_dtype dtype) {
  const Arg arg(op, name, tensor);
  arg.Dtype({dtype}).Dims(1).Contiguous();
  VK_CHECK(arg.size(0) >= size, "%s: %s has shape %s, want at least %lld elements", op, name,
           vk::ShapeString(*tensor).c_str(), static_cast<long long>(size));
  return static_cast<T*>(tensor->data);
}

// So much that sums of two numbers, and products of two, stay in 64 bits.
constexpr int64_t kMost = std::numeric_limits<int32_t>::max();

void CheckRange(const char* op, const char* name, int64_t value, int64_t least) {
  VK_CHECK(value >= least && value <= kMost, "%s: %s is %lld, want %lld to %lld", op, name,
           static_cast<long long>(value), static_cast<long long>(least),
           static_cast<long long>(kMost));
}

void CheckElement(const char* op, const char* name, int64_t value, int64_t at, int64_t least) {
  VK_CHECK(value >= least && value <= kMost, "%s: %s has %lld at index %lld, want %lld to %lld", op,
           name, static_cast<long long>(value), static_cast<long long>(at),
           static_cast<long long>(least), static_cast<long long>(kMost));
}

void CheckRequests(const char* op, int64_t requests) {
  VK_CHECK(requests >= 0, "%s: num_reqs is %lld, want 0 or more", op,
           static_cast<long long>(requests));
}

}  // namespace

extern "C" {

vk_status vk_cpu_eagle_prepare_inputs(const vk_tensor* draft_ends, const vk_tensor* valid_counts,
                                      const vk_tensor* starts, const vk_tensor* indices,
                                      const vk_tensor* rejected, int64_t requests) {
  return vk::Guard([&] {
    const char* op = "eagle_prepare_inputs_padded_kernel_impl";
    CheckRequests(op, requests);
    const auto* ends = Elements<int64_t>(op, "cu_num_draft_tokens", draft_ends, requests, VK_I64);
    const auto* valid =
        Elements<int64_t>(op, "valid_sampled_tokens_count", valid_counts, requests, VK_I64);
    const auto* first = Elements<int32_t>(op, "query_start_loc_gpu", starts, requests + 1, VK_I32);
    auto* index = Elements<int32_t>(op, "token_indices_to_sample", indices, requests, VK_I32);
    auto* left_out = Elements<int64_t>(op, "num_rejected_tokens_gpu", rejected, requests, VK_I64);
    for (int64_t i = 0; i < requests; ++i) {
      CheckElement(op, "cu_num_draft_tokens", ends[i], i, i == 0 ? 0 : ends[i - 1]);
      CheckElement(op, "valid_sampled_tokens_count", valid[i], i, 0);
    }
    for (int64_t i = 0; i < requests; ++i) {
      const int64_t drafted = ends[i] - (i == 0 ? 0 : ends[i - 1]);
      left_out[i] = drafted > 0 ? drafted + 1 - valid[i] : 0;
      index[i] = static_cast<int32_t>(int64_t{first[i + 1]} - 1 - left_out[i]);
    }
  });
}

vk_status vk_cpu_eagle_prepare_next_token(const vk_tensor* sampled, const vk_tensor* discard,
                                          const vk_tensor* backup, const vk_tensor* next,
                                          const vk_tensor* counts, int64_t vocab_size,
                                          int64_t columns, int64_t requests) {
  return vk::Guard([&] {
    const char* op = "eagle_prepare_next_token_padded_kernel_impl";
    CheckRequests(op, requests);
    const Arg rows(op, "sampled_token_ids", sampled);
    rows.Dtype({VK_I64}).Dims(2).LastDimContiguous();
    VK_CHECK(columns >= 0 && rows.size(0) >= requests && rows.size(1) >= columns,
             "%s: sampled_token_ids has shape %s, want at least [%lld, %lld]", op,
             vk::ShapeString(*sampled).c_str(), static_cast<long long>(requests),
             static_cast<long long>(columns));
    const auto* dropped = Elements<uint8_t>(op, "discard_request_mask", discard, requests, VK_BOOL);
    const auto* spare = Elements<int64_t>(op, "backup_next_token_ids", backup, requests, VK_I64);
    auto* to = Elements<int64_t>(op, "next_token_ids", next, requests, VK_I64);
    auto* count = Elements<int64_t>(op, "valid_sampled_tokens_count", counts, requests, VK_I64);
    for (int64_t i = 0; i < requests; ++i) {
      const int64_t* row = static_cast<const int64_t*>(sampled->data) + i * rows.stride(0);
      int64_t last = spare[i], valid = 0;
      for (int64_t at = 0; at < columns && !dropped[i]; ++at) {
        if (row[at] == -1 || row[at] >= vocab_size) continue;
        last = row[at];
        ++valid;
      }
      to[i] = last;
      count[i] = valid;
    }
  });
}

vk_status vk_cpu_eagle_step_slot_mapping(const vk_tensor* positions, const vk_tensor* block_table,
                                         const vk_tensor* seq_lens, const vk_tensor* clamped,
                                         const vk_tensor* slots, int64_t block_size,
                                         int64_t max_model_len, int64_t pad) {
  return vk::Guard([&] {
    const char* op = "eagle_step_slot_mapping_metadata_kernel_impl";
    CheckRange(op, "block_size", block_size, 1);
    CheckRange(op, "max_model_len", max_model_len, 1);
    const Arg where(op, "positions", positions), blocks(op, "block_table", block_table);
    const int64_t requests = where.Dims(1).size(0);
    const auto* position = Elements<int64_t>(op, "positions", positions, requests, VK_I64);
    blocks.Dtype({VK_I32}).Dims(2).LastDimContiguous();
    VK_CHECK(blocks.size(0) >= requests && (blocks.size(1) > 0 || requests == 0),
             "%s: block_table has shape %s, want a row of blocks for each of %lld requests", op,
             vk::ShapeString(*block_table).c_str(), static_cast<long long>(requests));
    auto* length = Elements<int32_t>(op, "seq_lens", seq_lens, requests, VK_I32);
    auto* moved = Elements<int64_t>(op, "out_clamped_positions", clamped, requests, VK_I64);
    auto* slot = Elements<int64_t>(op, "out_slot_mapping", slots, requests, VK_I64);
    for (int64_t i = 0; i < requests; ++i) {
      VK_CHECK(position[i] >= -1, "%s: positions has %lld at index %lld, want -1 or more", op,
               static_cast<long long>(position[i]), static_cast<long long>(i));
    }
    for (int64_t i = 0; i < requests; ++i) {
      const bool beyond = position[i] >= max_model_len - 1;
      moved[i] = beyond ? 0 : position[i] + 1;
      const int32_t* row = static_cast<const int32_t*>(block_table->data) + i * blocks.stride(0);
      const int64_t block = row[std::min(moved[i] / block_size, blocks.size(1) - 1)];
      slot[i] = beyond ? pad : block * block_size + moved[i] % block_size;
      const int64_t grown = beyond ? 1 : int64_t{length[i]} + 1;
      length[i] = static_cast<int32_t>(std::min(grown, max_model_len));
    }
    std::fill(slot + requests, slot + slots->shape[0], pad);
  });
}

}  // extern "C"
