#include <algorithm>

#include "core/checked.h"
#include "cuda/moe_routing/launch.h"
#include "cuda/moe_routing/moe_routing.h"

namespace {

using vk::Arg;
using vk::cuda::moe_routing::BatchedAlign;
using vk::cuda::moe_routing::Copy;
using vk::cuda::moe_routing::Experts;
using vk::cuda::moe_routing::Globalize;
using vk::cuda::moe_routing::kMaxExperts;
using vk::cuda::moe_routing::ProductSizes;
using vk::cuda::moe_routing::Sort;

void CheckRange(const char* op, const char* name, int64_t value, int64_t least, int64_t most) {
  VK_CHECK(value >= least && value <= most, "%s: %s is %lld, want %lld to %lld", op, name,
           static_cast<long long>(value), static_cast<long long>(least),
           static_cast<long long>(most));
}

int32_t* Int32(const vk_tensor* tensor) { return static_cast<int32_t*>(tensor->data); }

// A contiguous int32 tensor's elements; at least `count`.
int32_t* Numbers(const char* op, const char* name, const vk_tensor* tensor, int64_t count) {
  Arg(op, name, tensor).Dtype({VK_I32}).Contiguous();
  VK_CHECK(vk::NumElements(*tensor) >= count, "%s: %s has shape %s, want at least %lld elements",
           op, name, vk::ShapeString(*tensor).c_str(), static_cast<long long>(count));
  return Int32(tensor);
}

// Entries, experts and their map: what the sorts have in common.
Sort Entries(const char* op, const vk_tensor* ids, int64_t experts, const vk_tensor* map) {
  Sort sort = {};
  Arg(op, "topk_ids", ids).Dtype({VK_I32, VK_I64}).MinDims(1).Contiguous();
  CheckRange(op, "the number of experts", experts, 1, kMaxExperts);
  sort.ids = ids->data;
  sort.wide_ids = ids->dtype == VK_I64;
  sort.entries = vk::NumElements(*ids);
  CheckRange(op, "the number of topk_ids", sort.entries, 0, INT32_MAX);
  sort.topk = static_cast<int32_t>(std::max<int64_t>(ids->shape[ids->ndim - 1], 1));
  sort.experts = sort.buckets = static_cast<int32_t>(experts);
  if (map != nullptr) {
    Arg(op, "expert_map", map).Dtype({VK_I32}).Dims(1).Size(0, experts).Contiguous();
    sort.map = Int32(map);
  }
  return sort;
}

void Workspace(const char* op, Sort& sort, const vk_tensor* workspace) {
  if (vk::cuda::moe_routing::SortSegments(sort.entries) == 1) return;
  const Arg arg(op, "sort_workspace", workspace);
  arg.Dtype({VK_I8, VK_U8}).Contiguous();
  const int64_t bytes = vk_cuda_moe_sort_workspace(sort.entries, sort.buckets);
  VK_CHECK(vk::NumElements(*workspace) >= bytes,
           "%s: sort_workspace has shape %s, want at least %lld bytes", op,
           vk::ShapeString(*workspace).c_str(), static_cast<long long>(bytes));
  VK_CHECK(reinterpret_cast<uintptr_t>(workspace->data) % 4 == 0,
           "%s: sort_workspace is not aligned to 4 bytes", op);
  sort.workspace = Int32(workspace);
}

// Where the blocks of aligned entries go.
void Blocks(const char* op, Sort& sort, int64_t block_size, const vk_tensor* sorted_token_ids,
            const vk_tensor* experts_ids, const vk_tensor* num_tokens_post_pad) {
  CheckRange(op, "block_size", block_size, 1, 1 << 20);
  sort.block_size = static_cast<int32_t>(block_size);
  sort.sorted = Numbers(op, "sorted_token_ids", sorted_token_ids, 0);
  const int64_t capacity = vk::NumElements(*sorted_token_ids);
  CheckRange(op, "the number of sorted_token_ids", capacity, 0, INT32_MAX);
  sort.capacity = static_cast<int32_t>(capacity);
  sort.block_experts =
      Numbers(op, "experts_ids", experts_ids, vk::cuda::CeilDiv(capacity, block_size));
  sort.blocks = static_cast<int32_t>(vk::NumElements(*experts_ids));
  sort.total = Numbers(op, "num_tokens_post_pad", num_tokens_post_pad, 1);
}

// Sorts into those blocks, and marks the entries that are sorted where `scatter_idx` is given.
// `globalize`: makes the ids first; or null.
void Align(const char* op, Sort& sort, const vk_tensor* scatter_idx, const vk_tensor* workspace,
           const Globalize* globalize, void* stream) {
  if (scatter_idx != nullptr) sort.scatter = Numbers(op, "scatter_idx", scatter_idx, sort.entries);
  Workspace(op, sort, workspace);
  const cudaStream_t on = vk::cuda::AsStream(stream);
  if (globalize != nullptr) LaunchGlobalize(op, *globalize, on);
  LaunchAlign(op, sort, on);
  if (sort.scatter != nullptr) LaunchMark(op, sort, on);
}

// A permutation by local expert: the numbers of the entries, and where the first rows go.
void Permuted(const char* op, Sort& sort, int64_t n_local_expert,
              const vk_tensor* token_expert_indices, const vk_tensor* first_rows) {
  CheckRange(op, "n_local_expert", n_local_expert, 1, sort.experts);
  sort.buckets = static_cast<int32_t>(n_local_expert);
  sort.values = Numbers(op, "token_expert_indices", token_expert_indices, sort.entries);
  const Arg first(op, "expert_first_token_offset", first_rows);
  first.Dtype({VK_I64}).Dims(1).Size(0, n_local_expert + 1).Contiguous();
  sort.first_rows = static_cast<int64_t*>(first_rows->data);
}

// The engine's grouped products want columns first where there are at most so many rows.
constexpr int64_t kSwappedRows = 64;

ProductSizes Sizes(const char* op, const vk_tensor* first, const vk_tensor* second, int64_t experts,
                   int64_t n, int64_t k, bool gated) {
  ProductSizes sizes = {};
  CheckRange(op, "n", n, 0, INT32_MAX / 2);
  CheckRange(op, "k", k, 0, INT32_MAX);
  Arg(op, "problem_sizes1", first).Dtype({VK_I32}).Dims(2).Size(0, experts).Size(1, 3).Contiguous();
  Arg(op, "problem_sizes2", second)
      .Dtype({VK_I32})
      .Dims(2)
      .Size(0, experts)
      .Size(1, 3)
      .Contiguous();
  sizes.first = Int32(first);
  sizes.second = Int32(second);
  sizes.first_columns = static_cast<int32_t>(gated ? 2 * n : n);
  sizes.n = static_cast<int32_t>(n);
  sizes.k = static_cast<int32_t>(k);
  return sizes;
}

}  // namespace

extern "C" {

int64_t vk_cuda_moe_sort_workspace(int64_t entries, int64_t experts) {
  const int64_t segments = vk::cuda::moe_routing::SortSegments(entries);
  if (segments == 1) return 16;
  // Asked before the op checks the number, so it may be any.
  const int64_t counters = std::clamp<int64_t>(experts, 0, INT64_MAX - 1) + 1;
  return vk::SaturatingMultiply<int64_t>(vk::SaturatingMultiply(segments, counters),
                                         sizeof(int32_t));
}

vk_status vk_cuda_moe_align_block_size(const vk_tensor* topk_ids, int64_t num_experts,
                                       int64_t block_size, const vk_tensor* sorted_token_ids,
                                       const vk_tensor* experts_ids,
                                       const vk_tensor* num_tokens_post_pad,
                                       const vk_tensor* expert_map, const vk_tensor* scatter_idx,
                                       const vk_tensor* workspace, void* stream) {
  return vk::Guard([&] {
    const char* op = "moe_align_block_size";
    Sort sort = Entries(op, topk_ids, num_experts, expert_map);
    Blocks(op, sort, block_size, sorted_token_ids, experts_ids, num_tokens_post_pad);
    Align(op, sort, scatter_idx, workspace, nullptr, stream);
  });
}

vk_status vk_cuda_fused_globalize_align_block_size(
    const vk_tensor* topk_idx, const vk_tensor* psum, int64_t rank_expert_offset,
    int64_t global_num_experts, int64_t local_num_experts, int64_t block_size,
    const vk_tensor* sorted_ids, const vk_tensor* expert_ids, const vk_tensor* num_tokens_post_pad,
    const vk_tensor* scatter_idx, const vk_tensor* workspace, void* stream) {
  return vk::Guard([&] {
    const char* op = "fused_globalize_align_block_size";
    Arg(op, "topk_idx", topk_idx).Dtype({VK_I64}).Dims(2);
    Sort sort = Entries(op, topk_idx, local_num_experts, nullptr);
    Blocks(op, sort, block_size, sorted_ids, expert_ids, num_tokens_post_pad);
    CheckRange(op, "global_num_experts", global_num_experts, local_num_experts, INT32_MAX);
    CheckRange(op, "rank_expert_offset", rank_expert_offset, 0,
               global_num_experts - local_num_experts);
    const Arg received(op, "psum", psum);
    received.Dtype({VK_I32, VK_I64}).Dims(1).Contiguous();
    VK_CHECK(received.size(0) > 0, "%s: psum is empty, want a number for each rank", op);
    Globalize globalize = {};
    globalize.ids = static_cast<int64_t*>(topk_idx->data);
    globalize.received = psum->data;
    globalize.wide_received = psum->dtype == VK_I64;
    globalize.ranks = received.size(0);
    globalize.entries = sort.entries;
    globalize.topk = sort.topk;
    globalize.first_expert = rank_expert_offset;
    globalize.experts = global_num_experts;
    sort.first_expert = rank_expert_offset;
    Align(op, sort, scatter_idx, workspace, &globalize, stream);
  });
}

vk_status vk_cuda_moe_prepare_scatter(const vk_tensor* topk_ids,
                                      const vk_tensor* token_expert_indices,
                                      const vk_tensor* expert_map, int64_t n_expert,
                                      int64_t n_local_expert,
                                      const vk_tensor* expert_first_token_offset,
                                      const vk_tensor* scatter_idx, const vk_tensor* sort_workspace,
                                      const vk_tensor* sorted_rows, void* stream) {
  return vk::Guard([&] {
    const char* op = "moe_prepare_scatter";
    Arg(op, "topk_ids", topk_ids).Dtype({VK_I32}).Dims(2);
    Sort sort = Entries(op, topk_ids, n_expert, expert_map);
    Permuted(op, sort, n_local_expert, token_expert_indices, expert_first_token_offset);
    sort.row_of_entry = Numbers(op, "scatter_idx", scatter_idx, sort.entries);
    sort.entry_of_row = Numbers(op, "sorted_rows", sorted_rows, sort.entries);
    Workspace(op, sort, sort_workspace);
    LaunchPermutation(op, sort, vk::cuda::AsStream(stream));
  });
}

vk_status vk_cuda_moe_lora_align_block_size(
    const vk_tensor* topk_ids, const vk_tensor* token_lora_mapping, int64_t num_experts,
    int64_t block_size, int64_t max_loras, int64_t max_num_tokens_padded, int64_t max_num_m_blocks,
    const vk_tensor* sorted_token_ids, const vk_tensor* experts_ids,
    const vk_tensor* num_tokens_post_pad, const vk_tensor* adapter_enabled,
    const vk_tensor* lora_ids, const vk_tensor* expert_map, void* stream) {
  return vk::Guard([&] {
    const char* op = "moe_lora_align_block_size";
    Sort sort = Entries(op, topk_ids, num_experts, expert_map);
    Arg(op, "topk_ids", topk_ids).Dims(2);
    CheckRange(op, "block_size", block_size, 1, 1 << 20);
    CheckRange(op, "max_loras", max_loras, 0, 1 << 20);
    CheckRange(op, "max_num_tokens_padded", max_num_tokens_padded, 0, INT32_MAX);
    CheckRange(op, "max_num_m_blocks", max_num_m_blocks, 0, INT32_MAX);
    sort.block_size = static_cast<int32_t>(block_size);
    sort.max_adapters = static_cast<int32_t>(max_loras);
    sort.capacity = static_cast<int32_t>(max_num_tokens_padded);
    sort.blocks = static_cast<int32_t>(max_num_m_blocks);
    sort.token_adapters = Numbers(op, "token_lora_mapping", token_lora_mapping, topk_ids->shape[0]);
    sort.sorted =
        Numbers(op, "sorted_token_ids", sorted_token_ids, max_loras * max_num_tokens_padded);
    sort.block_experts = Numbers(op, "experts_ids", experts_ids, max_loras * max_num_m_blocks);
    sort.total = Numbers(op, "num_tokens_post_pad", num_tokens_post_pad, max_loras);
    sort.enabled = Numbers(op, "adapter_enabled", adapter_enabled, max_loras);
    sort.adapters = Numbers(op, "lora_ids", lora_ids, 1);
    sort.slots = static_cast<int32_t>(std::min(vk::NumElements(*lora_ids), max_loras + 1));
    LaunchAlign(op, sort, vk::cuda::AsStream(stream));
  });
}

vk_status vk_cuda_batched_moe_align_block_size(int64_t max_tokens_per_batch, int64_t block_size,
                                               const vk_tensor* expert_num_tokens,
                                               const vk_tensor* sorted_token_ids,
                                               const vk_tensor* experts_ids,
                                               const vk_tensor* num_tokens_post_pad, void* stream) {
  return vk::Guard([&] {
    const char* op = "batched_moe_align_block_size";
    const Arg counts(op, "expert_num_tokens", expert_num_tokens);
    counts.Dtype({VK_I32}).Dims(1).Contiguous();
    CheckRange(op, "the number of experts", counts.size(0), 1, kMaxExperts);
    CheckRange(op, "block_size", block_size, 1, 1 << 20);
    CheckRange(op, "max_tokens_per_batch", max_tokens_per_batch, 0, INT32_MAX / kMaxExperts);
    const int64_t blocks = counts.size(0) * vk::cuda::CeilDiv(max_tokens_per_batch, block_size);
    CheckRange(op, "the number of places", blocks * block_size, 0, INT32_MAX);
    BatchedAlign align = {};
    align.counts = Int32(expert_num_tokens);
    align.experts = static_cast<int32_t>(counts.size(0));
    align.max_tokens = static_cast<int32_t>(max_tokens_per_batch);
    align.block_size = static_cast<int32_t>(block_size);
    align.sorted = Numbers(op, "sorted_token_ids", sorted_token_ids, blocks * block_size);
    align.block_experts = Numbers(op, "experts_ids", experts_ids, blocks);
    align.total = Numbers(op, "num_tokens_post_pad", num_tokens_post_pad, 1);
    align.capacity = blocks * block_size;
    align.blocks = blocks;
    LaunchBatchedAlign(op, align, vk::cuda::AsStream(stream));
  });
}

vk_status vk_cuda_moe_permute(const vk_tensor* input, const vk_tensor* topk_ids,
                              const vk_tensor* token_expert_indices, const vk_tensor* expert_map,
                              int64_t n_expert, int64_t n_local_expert, int64_t topk,
                              const vk_tensor* permuted_input,
                              const vk_tensor* expert_first_token_offset,
                              const vk_tensor* inv_permuted_idx, const vk_tensor* permuted_idx,
                              const vk_tensor* workspace, void* stream) {
  return vk::Guard([&] {
    const char* op = "moe_permute";
    const Arg in(op, "input", input), out(op, "permuted_input", permuted_input);
    in.Dims(2).LastDimContiguous();
    Arg(op, "topk_ids", topk_ids).Dtype({VK_I32}).Dims(2).Size(0, in.size(0)).Size(1, topk);
    Sort sort = Entries(op, topk_ids, n_expert, expert_map);
    Permuted(op, sort, n_local_expert, token_expert_indices, expert_first_token_offset);
    out.SameDtype(in).Dims(2).Size(0, sort.entries).Size(1, in.size(1)).LastDimContiguous();
    sort.row_of_entry = Numbers(op, "inv_permuted_idx", inv_permuted_idx, sort.entries);
    sort.entry_of_row = Numbers(op, "permuted_idx", permuted_idx, sort.entries);
    Workspace(op, sort, workspace);
    const int64_t item = in.ItemSize();
    const cudaStream_t on = vk::cuda::AsStream(stream);
    LaunchPermutation(op, sort, on);
    Copy copy = {};
    copy.input = static_cast<const char*>(input->data);
    copy.output = static_cast<char*>(permuted_input->data);
    copy.input_stride = in.stride(0) * item;
    copy.output_stride = out.stride(0) * item;
    copy.bytes = in.size(1) * item;
    copy.rows = in.size(0);
    copy.index = sort.row_of_entry;
    copy.fan = static_cast<int32_t>(topk);
    copy.end = sort.first_rows + n_local_expert;
    if (sort.entries > 0) LaunchCopy(op, copy, on);
  });
}

vk_status vk_cuda_get_cutlass_moe_mm_data(
    const vk_tensor* topk_ids, const vk_tensor* expert_offsets, const vk_tensor* problem_sizes1,
    const vk_tensor* problem_sizes2, const vk_tensor* input_permutation,
    const vk_tensor* output_permutation, int64_t num_experts, int64_t n, int64_t k,
    const vk_tensor* blockscale_offsets, bool is_gated, const vk_tensor* workspace, void* stream) {
  return vk::Guard([&] {
    const char* op = "get_cutlass_moe_mm_data";
    Sort sort = Entries(op, topk_ids, num_experts, nullptr);
    Arg(op, "topk_ids", topk_ids).Dims(2);
    sort.sizes = Sizes(op, problem_sizes1, problem_sizes2, num_experts, n, k, is_gated);
    sort.sizes.swapped = blockscale_offsets == nullptr && sort.entries <= kSwappedRows;
    sort.offsets = Numbers(op, "expert_offsets", expert_offsets, num_experts + 1);
    if (blockscale_offsets != nullptr) {
      sort.padded_offsets = Numbers(op, "blockscale_offsets", blockscale_offsets, num_experts + 1);
    }
    sort.token_of_row = Numbers(op, "input_permutation", input_permutation, sort.entries);
    sort.row_of_entry = Numbers(op, "output_permutation", output_permutation, sort.entries);
    Workspace(op, sort, workspace);
    LaunchGrouping(op, sort, vk::cuda::AsStream(stream));
  });
}

vk_status vk_cuda_get_cutlass_moe_mm_sizes(const vk_tensor* expert_first_token_offset,
                                           const vk_tensor* problem_sizes1,
                                           const vk_tensor* problem_sizes2, int64_t n, int64_t k,
                                           bool swap_ab, void* stream) {
  return vk::Guard([&] {
    const char* op = "get_cutlass_moe_mm_problem_sizes_from_expert_offsets";
    const Arg first(op, "expert_first_token_offset", expert_first_token_offset);
    first.Dtype({VK_I64}).Dims(1).Contiguous();
    const int64_t count = first.size(0) - 1;
    CheckRange(op, "the number of experts", count, 0, INT32_MAX);
    Experts experts = {};
    experts.first_rows = static_cast<const int64_t*>(expert_first_token_offset->data);
    experts.experts = static_cast<int32_t>(count);
    experts.sizes = Sizes(op, problem_sizes1, problem_sizes2, count, n, k, true);
    experts.sizes.swapped = swap_ab;
    if (count > 0) LaunchSizes(op, experts, vk::cuda::AsStream(stream));
  });
}

vk_status vk_cuda_get_cutlass_batched_moe_mm_data(const vk_tensor* expert_offsets,
                                                  const vk_tensor* problem_sizes1,
                                                  const vk_tensor* problem_sizes2,
                                                  const vk_tensor* expert_num_tokens,
                                                  int64_t num_local_experts, int64_t padded_m,
                                                  int64_t n, int64_t k, void* stream) {
  return vk::Guard([&] {
    const char* op = "get_cutlass_batched_moe_mm_data";
    CheckRange(op, "num_local_experts", num_local_experts, 0, INT32_MAX);
    CheckRange(op, "padded_m", padded_m, 0, INT32_MAX);
    CheckRange(op, "the number of rows", num_local_experts * padded_m, 0, INT32_MAX);
    Experts experts = {};
    experts.counts = Numbers(op, "expert_num_tokens", expert_num_tokens, num_local_experts);
    experts.offsets = Numbers(op, "expert_offsets", expert_offsets, num_local_experts);
    experts.experts = static_cast<int32_t>(num_local_experts);
    experts.padded_rows = static_cast<int32_t>(padded_m);
    experts.sizes = Sizes(op, problem_sizes1, problem_sizes2, num_local_experts, n, k, true);
    experts.sizes.swapped = num_local_experts * padded_m <= kSwappedRows;
    if (num_local_experts > 0) LaunchSizes(op, experts, vk::cuda::AsStream(stream));
  });
}

vk_status vk_cuda_shuffle_rows(const vk_tensor* input, const vk_tensor* dst2src_map,
                               const vk_tensor* output, void* stream) {
  return vk::Guard([&] {
    const char* op = "shuffle_rows";
    const Arg in(op, "input_tensor", input), out(op, "output_tensor", output);
    in.Dims(2).LastDimContiguous();
    out.SameDtype(in).Dims(2).Size(1, in.size(1)).LastDimContiguous();
    Arg(op, "dst2src_map", dst2src_map).Dtype({VK_I32}).Dims(1).Size(0, out.size(0)).Contiguous();
    const int64_t item = in.ItemSize();
    Copy copy = {};
    copy.input = static_cast<const char*>(input->data);
    copy.output = static_cast<char*>(output->data);
    copy.input_stride = in.stride(0) * item;
    copy.output_stride = out.stride(0) * item;
    copy.bytes = in.size(1) * item;
    copy.rows = out.size(0);
    copy.index = Int32(dst2src_map);
    copy.input_rows = in.size(0);
    LaunchCopy(op, copy, vk::cuda::AsStream(stream));
  });
}

}  // extern "C"
