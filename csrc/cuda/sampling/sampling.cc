#include "cuda/sampling/sampling.h"

#include "cuda/common/rows.h"
#include "cuda/sampling/launch.h"

namespace {

using vk::Arg;
using vk::Print;
using vk::cuda::RowsAligned;
using vk::cuda::sampling::Embedding;
using vk::cuda::sampling::Penalties;
using vk::cuda::sampling::Select;

// An int32 tensor's elements, at least `count`.
const int32_t* Numbers(const char* op, const char* name, const vk_tensor* tensor, int64_t count) {
  Arg(op, name, tensor).Dtype({VK_I32}).Contiguous();
  VK_CHECK(vk::NumElements(*tensor) >= count, "%s: %s has shape %s, want at least %lld elements",
           op, name, vk::ShapeString(*tensor).c_str(), Print(count));
  return static_cast<const int32_t*>(tensor->data);
}

Select Rows(const char* op, const vk_tensor* logits, const char* name, const vk_tensor* indices,
            int64_t rows, int64_t row_stride, int64_t column_stride, int64_t k) {
  const Arg in(op, "logits", logits), out(op, name, indices);
  in.Dtype({VK_F32}).Dims(2);
  VK_CHECK(rows >= 0 && rows <= in.size(0), "%s: %lld rows are wanted of logits of shape %s", op,
           Print(rows), vk::ShapeString(*logits).c_str());
  VK_CHECK(row_stride == in.stride(0) && column_stride == in.stride(1),
           "%s: strides are %lld and %lld, want those of logits, %lld and %lld", op,
           Print(row_stride), Print(column_stride), Print(in.stride(0)), Print(in.stride(1)));
  VK_CHECK(in.size(1) <= INT32_MAX, "%s: logits have shape %s, want fewer than 2^31 columns", op,
           vk::ShapeString(*logits).c_str());
  out.Dtype({VK_I32}).Dims(2).Size(1, k).Contiguous();
  VK_CHECK(out.size(0) >= rows, "%s: %s has shape %s, want at least %lld rows", op, name,
           vk::ShapeString(*indices).c_str(), Print(rows));
  VK_CHECK(k <= INT32_MAX, "%s: k is %lld, want less than 2^31", op, Print(k));
  Select select = {};
  select.logits = static_cast<const float*>(logits->data);
  select.rows = rows;
  select.columns = in.size(1);
  select.row_stride = row_stride;
  select.column_stride = column_stride;
  select.indices = static_cast<int32_t*>(indices->data);
  select.k = static_cast<int32_t>(k);
  return select;
}

// Tokens [start, end) of one rank; how many there are.
int64_t CheckTokens(const char* op, const char* name, int64_t start, int64_t end) {
  VK_CHECK(start >= 0 && end >= start, "%s: the %s tokens are [%lld, %lld), want 0 <= start <= end",
           op, name, Print(start), Print(end));
  return end - start;
}

// The largest unit in which rows can be copied.
int64_t CopyUnit(const vk_tensor& from, const vk_tensor& to, int64_t width) {
  for (const int64_t unit : {16, 4}) {
    if (width % unit == 0 && RowsAligned(from, unit) && RowsAligned(to, unit)) return unit;
  }
  return 1;
}

}  // namespace

extern "C" {

vk_status vk_cuda_apply_repetition_penalties(const vk_tensor* logits, const vk_tensor* prompt_mask,
                                             const vk_tensor* output_mask,
                                             const vk_tensor* repetition_penalties, void* stream) {
  return vk::Guard([&] {
    const char* op = "apply_repetition_penalties_";
    const Arg in(op, "logits", logits), prompt(op, "prompt_mask", prompt_mask),
        output(op, "output_mask", output_mask);
    in.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(2).LastDimContiguous();
    prompt.Dtype({VK_BOOL}).SameShape(in).LastDimContiguous();
    output.Dtype({VK_BOOL}).SameShape(in).LastDimContiguous();
    const Arg factor(op, "repetition_penalties", repetition_penalties);
    factor.SameDtype(in).Dims(1).Size(0, in.size(0)).Contiguous();
    Penalties penalties = {};
    penalties.logits = logits->data;
    penalties.prompt = static_cast<const uint8_t*>(prompt_mask->data);
    penalties.output = static_cast<const uint8_t*>(output_mask->data);
    penalties.penalties = repetition_penalties->data;
    penalties.rows = in.size(0);
    penalties.width = in.size(1);
    penalties.logits_stride = in.stride(0);
    penalties.prompt_stride = prompt.stride(0);
    penalties.output_stride = output.stride(0);
    LaunchPenalties(op, logits->dtype,
                    RowsAligned(*prompt_mask, 16) && RowsAligned(*output_mask, 16), penalties,
                    vk::cuda::AsStream(stream));
  });
}

vk_status vk_cuda_top_k_per_row_prefill(const vk_tensor* logits, const vk_tensor* row_starts,
                                        const vk_tensor* row_ends, const vk_tensor* indices,
                                        int64_t rows, int64_t row_stride, int64_t column_stride,
                                        int64_t top_k, void* stream) {
  return vk::Guard([&] {
    const char* op = "top_k_per_row_prefill";
    Select select = Rows(op, logits, "indices", indices, rows, row_stride, column_stride, top_k);
    select.starts = Numbers(op, "rowStarts", row_starts, rows);
    select.ends = Numbers(op, "rowEnds", row_ends, rows);
    LaunchSelect(op, select, vk::cuda::AsStream(stream));
  });
}

vk_status vk_cuda_top_k_per_row_decode(const vk_tensor* logits, int64_t next_n,
                                       const vk_tensor* seq_lens, const vk_tensor* indices,
                                       int64_t rows, int64_t row_stride, int64_t column_stride,
                                       int64_t top_k, void* stream) {
  return vk::Guard([&] {
    const char* op = "top_k_per_row_decode";
    Select select = Rows(op, logits, "indices", indices, rows, row_stride, column_stride, top_k);
    VK_CHECK(next_n >= 1 && next_n <= INT32_MAX, "%s: next_n is %lld, want 1 or more", op,
             Print(next_n));
    const bool of_rows = Arg(op, "seq_lens", seq_lens).tensor().ndim == 2;
    select.next_n = of_rows ? 0 : static_cast<int32_t>(next_n);
    select.ends =
        Numbers(op, "seq_lens", seq_lens, of_rows ? rows : vk::cuda::CeilDiv(rows, next_n));
    LaunchSelect(op, select, vk::cuda::AsStream(stream));
  });
}

vk_status vk_cuda_top_k_of_lengths(const char* op, const vk_tensor* logits,
                                   const vk_tensor* lengths, const vk_tensor* output, int64_t k,
                                   void* stream) {
  return vk::Guard([&] {
    const Arg in(op, "logits", logits);
    in.Dims(2);
    Select select = Rows(op, logits, "output", output, in.size(0), in.stride(0), in.stride(1), k);
    select.ends = Numbers(op, "lengths", lengths, in.size(0));
    LaunchSelect(op, select, vk::cuda::AsStream(stream));
  });
}

vk_status vk_cuda_vocab_parallel_embedding(const vk_tensor* out, const vk_tensor* input_ids,
                                           const vk_tensor* weight, int64_t start, int64_t end,
                                           int64_t padding, int64_t added_start, int64_t added_end,
                                           void* stream) {
  return vk::Guard([&] {
    const char* op = "vocab_parallel_embedding";
    const Arg to(op, "out", out), tokens(op, "input_ids", input_ids), from(op, "weight", weight);
    tokens.Dtype({VK_I32, VK_I64}).Dims(1).Contiguous();
    from.Dims(2).LastDimContiguous();
    to.SameDtype(from).Dims(2).Size(0, tokens.size(0)).Size(1, from.size(1)).Contiguous();
    const int64_t own = CheckTokens(op, "original", start, end);
    const int64_t added = CheckTokens(op, "added", added_start, added_end);
    const int64_t rows = from.size(0);
    // Step by step: a sum of the caller's numbers might overflow.
    const bool fits =
        padding >= 0 && own <= rows && padding <= rows - own && added <= rows - own - padding;
    VK_CHECK(fits,
             "%s: weight has %lld rows, want at least those of %lld original tokens, %lld of "
             "padding and %lld added tokens",
             op, Print(rows), Print(own), Print(padding), Print(added));
    Embedding embedding = {};
    embedding.out = out->data;
    embedding.tokens = input_ids->data;
    embedding.weight = weight->data;
    embedding.count = tokens.size(0);
    embedding.width = from.size(1) * from.ItemSize();
    embedding.stride = from.stride(0) * from.ItemSize();
    embedding.start = start;
    embedding.end = end;
    embedding.added_start = added_start;
    embedding.added_end = added_end;
    embedding.added_row = own + padding;
    LaunchEmbedding(op, input_ids->dtype == VK_I64, CopyUnit(*weight, *out, embedding.width),
                    embedding, vk::cuda::AsStream(stream));
  });
}

}  // extern "C"
