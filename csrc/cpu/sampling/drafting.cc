#include "cpu/sampling/drafting.h"

#include <algorithm>
#include <limits>

#include "core/check.h"
#include "core/checked.h"
#include "cpu/sequences.h"

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

// The first token of each request and the end of the last one; each has a token.
const int32_t* Starts(const char* op, const vk_tensor* starts, int64_t requests, int64_t tokens) {
  CheckRange(op, "total_input_tokens", tokens, 0);
  const Arg arg(op, "query_start_loc", starts);
  const int64_t found = vk::CheckStarts(arg, op, tokens);
  VK_CHECK(found >= requests, "%s: query_start_loc has shape %s, want at least %lld elements", op,
           vk::ShapeString(*starts).c_str(), static_cast<long long>(requests + 1));
  const auto* first = static_cast<const int32_t*>(starts->data);
  for (int64_t i = 0; i < requests; ++i) {
    VK_CHECK(first[i] < first[i + 1],
             "%s: query_start_loc has %d at indices %lld and %lld, want a "
             "token for each request",
             op, first[i], static_cast<long long>(i), static_cast<long long>(i + 1));
  }
  return first;
}

// For indices of that many elements, which are int32, behind `others`, an int32 too.
int64_t CheckCount(const char* op, int64_t requests, int64_t each, int64_t others = 0) {
  const int64_t count = vk::SaturatingMultiply(requests, each);
  VK_CHECK(count <= kMost - others, "%s: %lld requests of %lld tokens pass int32", op,
           static_cast<long long>(requests), static_cast<long long>(each));
  return count + others;
}

// Where the requests' positions lie in the cache; those behind the table lie in its last block.
class Blocks {
 public:
  Blocks(const char* op, const vk_tensor* table, int64_t requests, int64_t size) : size_(size) {
    const Arg blocks(op, "block_table", table);
    blocks.Dtype({VK_I32}).Dims(2).LastDimContiguous();
    VK_CHECK(blocks.size(0) >= requests && (blocks.size(1) > 0 || requests == 0),
             "%s: block_table has shape %s, want a row of blocks for each of %lld requests", op,
             vk::ShapeString(*table).c_str(), static_cast<long long>(requests));
    first_ = static_cast<const int32_t*>(table->data);
    stride_ = blocks.stride(0), last_ = blocks.size(1) - 1;
  }

  int64_t Slot(int64_t request, int64_t position) const {
    const int64_t block = first_[request * stride_ + std::min(position / size_, last_)];
    return block * size_ + position % size_;
  }

 private:
  const int32_t* first_;
  int64_t stride_, last_, size_;
};

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
    const int64_t requests = Arg(op, "positions", positions).Dims(1).size(0);
    const auto* position = Elements<int64_t>(op, "positions", positions, requests, VK_I64);
    const Blocks blocks(op, block_table, requests, block_size);
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
      slot[i] = beyond ? pad : blocks.Slot(i, moved[i]);
      const int64_t grown = beyond ? 1 : int64_t{length[i]} + 1;
      length[i] = static_cast<int32_t>(std::min(grown, max_model_len));
    }
    std::fill(slot + requests, slot + slots->shape[0], pad);
  });
}

vk_status vk_cpu_copy_and_expand_eagle_inputs(const vk_tensor* ids, const vk_tensor* positions,
                                              const vk_tensor* next, const vk_tensor* out_ids,
                                              const vk_tensor* out_positions,
                                              const vk_tensor* left_out, const vk_tensor* masked,
                                              const vk_tensor* added, const vk_tensor* moved,
                                              const vk_tensor* starts, const vk_tensor* ends,
                                              int64_t padding, int64_t drafted, int64_t tokens,
                                              int64_t slots, int32_t shift) {
  return vk::Guard([&] {
    const char* op = "copy_and_expand_eagle_inputs_kernel_impl";
    const Arg last(op, "query_end_loc", ends);
    const int64_t requests = last.Dims(1).size(0);
    const auto* end = Elements<int32_t>(op, "query_end_loc", ends, requests, VK_I32);
    CheckRange(op, "num_padding_slots_per_request", slots, 1);
    const auto* start = Starts(op, starts, requests, tokens);
    const int64_t total = start[requests], more = slots - (shift != 0);
    const int64_t wanted = CheckCount(op, requests, more, total);
    const auto* id = Elements<int64_t>(op, "target_token_ids", ids, total, VK_I64);
    const auto* where = Elements<int64_t>(op, "target_positions", positions, total, VK_I64);
    const auto* sampled = Elements<int64_t>(op, "next_token_ids", next, requests, VK_I64);
    auto* to = Elements<int64_t>(op, "out_input_ids", out_ids, wanted, VK_I64);
    auto* at = Elements<int64_t>(op, "out_positions", out_positions, wanted, VK_I64);
    auto* dropped = Elements<uint8_t>(op, "out_is_rejected_token_mask", left_out, wanted, VK_BOOL);
    auto* mask = Elements<uint8_t>(op, "out_is_masked_token_mask", masked, wanted, VK_BOOL);
    auto* index = Elements<int32_t>(op, "out_new_token_indices", added,
                                    CheckCount(op, requests, slots), VK_I32);
    auto* state =
        Elements<int32_t>(op, "out_hidden_state_mapping", moved, shift ? total : 0, VK_I32);
    for (int64_t i = 0; i < requests; ++i) {
      VK_CHECK(end[i] >= start[i] && end[i] < start[i + 1],
               "%s: query_end_loc has %d at index %lld, want %d to %d, a token of the request", op,
               end[i], static_cast<long long>(i), start[i], start[i + 1] - 1);
      CheckElement(op, "target_positions", where[start[i]], start[i], 0);
    }
    for (int64_t i = 0; i < requests; ++i) {
      const int64_t from = start[i] + (shift != 0), accepted = end[i] + 1 - from;
      const int64_t first = start[i] + i * more, behind = start[i + 1] + (i + 1) * more;
      const int64_t new_ones = first + accepted, rejected = new_ones + slots;
      std::copy_n(id + from, accepted, to + first);
      to[new_ones] = sampled[i];
      std::fill(to + new_ones + 1, to + rejected, drafted);
      std::fill(to + rejected, to + behind, padding);
      for (int64_t j = first; j < behind; ++j) {
        at[j] = j < rejected ? where[start[i]] + j - first : 0;
        dropped[j] = j >= rejected;
        mask[j] = j > new_ones && j < rejected;
      }
      for (int64_t j = 0; j < slots; ++j) index[i * slots + j] = static_cast<int32_t>(new_ones + j);
      for (int64_t j = start[i]; shift && j < start[i + 1]; ++j) {
        state[j] = static_cast<int32_t>(first + j - start[i]);
      }
    }
  });
}

vk_status vk_cpu_copy_and_expand_dflash_inputs(
    const vk_tensor* next, const vk_tensor* positions, const vk_tensor* out_ids,
    const vk_tensor* context_positions, const vk_tensor* query_positions,
    const vk_tensor* context_slots, const vk_tensor* query_slots, const vk_tensor* sampled,
    const vk_tensor* block_table, const vk_tensor* starts, const vk_tensor* rejected,
    int64_t drafted, int64_t block_size, int64_t queries, int64_t speculated, int64_t tokens,
    int32_t has_rejected) {
  return vk::Guard([&] {
    const char* op = "copy_and_expand_dflash_inputs_kernel_impl";
    CheckRange(op, "block_size", block_size, 1);
    CheckRange(op, "num_query_per_req", queries, 1);
    CheckRange(op, "num_speculative_tokens", speculated, queries - 1);
    const int64_t requests = Arg(op, "query_start_loc", starts).Dims(1).size(0) - 1;
    const auto* start = Starts(op, starts, requests, tokens);
    const int64_t total = start[requests], asked = CheckCount(op, requests, queries);
    const auto* first = Elements<int64_t>(op, "next_token_ids", next, requests, VK_I64);
    const auto* where = Elements<int64_t>(op, "target_positions", positions, total, VK_I64);
    auto* ids = Elements<int64_t>(op, "out_input_ids", out_ids, asked, VK_I64);
    auto* context =
        Elements<int64_t>(op, "out_context_positions", context_positions, total, VK_I64);
    auto* query = Elements<int64_t>(op, "out_query_positions", query_positions, asked, VK_I64);
    auto* kept = Elements<int64_t>(op, "out_context_slot_mapping", context_slots, total, VK_I64);
    auto* slot = Elements<int64_t>(op, "out_query_slot_mapping", query_slots, asked, VK_I64);
    auto* index = Elements<int32_t>(op, "out_token_indices", sampled,
                                    CheckCount(op, requests, speculated), VK_I32);
    const Blocks blocks(op, block_table, requests, block_size);
    const int64_t* lost = nullptr;
    if (has_rejected && rejected != nullptr) {
      lost = Elements<int64_t>(op, "num_rejected_tokens", rejected, requests, VK_I64);
      for (int64_t i = 0; i < requests; ++i) {
        CheckElement(op, "num_rejected_tokens", lost[i], i, 0);
      }
    }
    for (int64_t t = start[0]; t < total; ++t) {
      CheckElement(op, "target_positions", where[t], t, 0);
    }
    for (int64_t i = 0; i < requests; ++i) {
      for (int64_t t = start[i]; t < start[i + 1]; ++t) {
        context[t] = where[t];
        kept[t] = blocks.Slot(i, where[t]);
      }
      const int64_t accepted = start[i + 1] - (lost == nullptr ? 0 : lost[i]);
      const int64_t position = where[std::max<int64_t>(accepted, start[i] + 1) - 1] + 1;
      for (int64_t j = 0; j < queries; ++j) {
        const int64_t at = i * queries + j;
        ids[at] = j == 0 ? first[i] : drafted;
        query[at] = position + j;
        slot[at] = blocks.Slot(i, position + j);
        if (j > 0) index[i * speculated + j - 1] = static_cast<int32_t>(at);
      }
    }
  });
}

}  // extern "C"
