#include "cuda/selective_scan/selective_scan.h"

#include "core/check.h"
#include "cuda/selective_scan/launch.h"

namespace {

using vk::Arg;
using vk::Print;
using vk::cuda::selective_scan::kMostStates;
using vk::cuda::selective_scan::Launch;
using vk::cuda::selective_scan::Problem;
using vk::cuda::selective_scan::Rows;
using vk::cuda::selective_scan::Weights;

constexpr const char* kOp = "selective_scan_fwd";

// [sequences, rows, tokens], or [rows, tokens] of all sequences.
Rows CheckRows(const char* name, const vk_tensor* tensor, const Arg& u) {
  const Arg arg(kOp, name, tensor);
  arg.SameDtype(u).SameShape(u).LastDimContiguous();
  return {tensor->data, tensor->ndim == 3 ? tensor->stride[0] : 0, arg.stride(-2)};
}

Weights CheckWeights(const char* name, const vk_tensor* tensor, const Arg& u, int64_t groups,
                     int64_t dstate) {
  const Arg arg(kOp, name, tensor);
  const int32_t dims = u.tensor().ndim + 1;
  arg.SameDtype(u).Dims(dims).Size(-1, u.size(-1)).Size(-2, dstate).Size(-3, groups);
  if (dims == 4) arg.Size(0, u.size(0));
  arg.LastDimContiguous();
  return {tensor->data, dims == 4 ? tensor->stride[0] : 0, arg.stride(-3), arg.stride(-2)};
}

const float* PerRow(const char* name, const vk_tensor* tensor, int64_t rows) {
  if (tensor == nullptr) return nullptr;
  Arg(kOp, name, tensor).Dtype({VK_F32}).Dims(1).Size(0, rows).Contiguous();
  return static_cast<const float*>(tensor->data);
}

const int32_t* Numbers(const char* name, const vk_tensor* tensor, int64_t count) {
  if (tensor == nullptr) return nullptr;
  Arg(kOp, name, tensor).Dtype({VK_I32}).Dims(1).Size(0, count).Contiguous();
  return static_cast<const int32_t*>(tensor->data);
}

int32_t Small(const char* name, int64_t value) {
  VK_CHECK(value <= INT32_MAX / 2, "%s: %lld %s, want less than 2^30", kOp, Print(value), name);
  return static_cast<int32_t>(value);
}

void CheckStates(const vk_tensor* states, const Arg& u, Problem& p, Launch& launch) {
  const Arg arg(kOp, "ssm_states", states);
  launch.float_states = states->dtype == VK_F32;
  if (!launch.float_states) arg.SameDtype(u);
  arg.Dims(3).Size(1, p.rows).Size(2, p.dstate).LastDimContiguous();
  p.states = states->data;
  p.slot = arg.stride(0), p.state_row = arg.stride(1), p.slots = arg.size(0);
}

void CheckIndices(const vk_tensor* indices, Problem& p) {
  if (indices == nullptr) return;
  const Arg arg(kOp, "cache_indices", indices);
  const bool cached = p.first_block != nullptr;
  arg.Dtype({VK_I32}).Dims(cached ? 2 : 1).Size(0, p.sequences);
  p.indices = static_cast<const int32_t*>(indices->data);
  p.indices_stride = arg.stride(0);
  p.columns = cached ? arg.size(1) : 1;
  p.column_stride = cached ? arg.stride(1) : 0;
}

}  // namespace

extern "C" vk_status vk_cuda_selective_scan_fwd(
    const vk_tensor* u, const vk_tensor* delta, const vk_tensor* A, const vk_tensor* B,
    const vk_tensor* C, const vk_tensor* D, const vk_tensor* z, const vk_tensor* delta_bias,
    bool delta_softplus, const vk_tensor* query_start_loc, const vk_tensor* cache_indices,
    const vk_tensor* has_initial_state, const vk_tensor* ssm_states, int64_t null_block_id,
    int64_t block_size, const vk_tensor* block_idx_first, const vk_tensor* block_idx_last,
    const vk_tensor* initial_state_idx, const vk_tensor* cu_chunk_seqlen,
    const vk_tensor* last_chunk, void* stream) {
  return vk::Guard([&] {
    Problem p{};
    const bool varlen = query_start_loc != nullptr;
    const Arg in(kOp, "u", u), a(kOp, "A", A), b(kOp, "B", B);
    Launch launch{kOp, u->dtype, false, vk::cuda::AsStream(stream)};
    in.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(varlen ? 2 : 3).LastDimContiguous();
    p.rows = Small("rows", in.size(-2)), p.tokens = Small("tokens", in.size(-1));
    int64_t sequences = varlen ? 0 : in.size(0);
    if (varlen) {
      const Arg starts(kOp, "query_start_loc", query_start_loc);
      starts.Dtype({VK_I32}).Dims(1).Contiguous();
      VK_CHECK(starts.size(0) > 0, "%s: query_start_loc is empty, want [sequences + 1]", kOp);
      sequences = starts.size(0) - 1;
      p.starts = static_cast<const int32_t*>(query_start_loc->data);
    }
    p.sequences = Small("sequences", sequences);
    a.Dtype({VK_F32}).Dims(2).Size(0, p.rows);
    VK_CHECK(a.size(1) >= 1 && a.size(1) <= kMostStates,
             "%s: A has shape %s, want 1 to %d states a row", kOp, vk::ShapeString(*A).c_str(),
             kMostStates);
    p.dstate = static_cast<int32_t>(a.size(1));
    p.a = static_cast<const float*>(A->data), p.a_row = a.stride(0), p.a_state = a.stride(1);
    b.Dims(in.tensor().ndim + 1);
    VK_CHECK(b.size(-3) > 0 && p.rows % b.size(-3) == 0,
             "%s: u has %d rows and B %lld groups, want a multiple of the groups", kOp, p.rows,
             Print(b.size(-3)));
    p.groups = static_cast<int32_t>(b.size(-3));
    p.u = CheckRows("u", u, in), p.delta = CheckRows("delta", delta, in);
    if (z != nullptr) p.z = CheckRows("z", z, in);
    p.b = CheckWeights("B", B, in, p.groups, p.dstate);
    p.c = CheckWeights("C", C, in, p.groups, p.dstate);
    p.d = PerRow("D", D, p.rows), p.bias = PerRow("delta_bias", delta_bias, p.rows);
    CheckStates(ssm_states, in, p, launch);
    if (has_initial_state != nullptr) {
      Arg(kOp, "has_initial_state", has_initial_state)
          .Dtype({VK_BOOL})
          .Dims(1)
          .Size(0, sequences)
          .Contiguous();
      p.has_initial = static_cast<const uint8_t*>(has_initial_state->data);
    }
    p.first_block = Numbers("block_idx_first_scheduled_token", block_idx_first, sequences);
    if (p.first_block != nullptr) {
      VK_CHECK(block_size >= 1 && block_size <= INT32_MAX / 2,
               "%s: block_size is %lld, want 1 to %d", kOp, Print(block_size), INT32_MAX / 2);
      VK_CHECK(block_idx_last != nullptr && initial_state_idx != nullptr,
               "%s: block_idx_last_scheduled_token or initial_state_idx is missing beside "
               "block_idx_first_scheduled_token",
               kOp);
      p.block_size = static_cast<int32_t>(block_size);
      p.last_block = Numbers("block_idx_last_scheduled_token", block_idx_last, sequences);
      p.initial = Numbers("initial_state_idx", initial_state_idx, sequences);
      if (cu_chunk_seqlen != nullptr && last_chunk != nullptr) {
        const Arg ends(kOp, "cu_chunk_seqlen", cu_chunk_seqlen);
        VK_CHECK(ends.Dims(1).size(0) > 0, "%s: cu_chunk_seqlen is empty, want [chunks + 1]", kOp);
        p.chunks = Small("chunks", ends.size(0) - 1);
        p.chunk_ends = Numbers("cu_chunk_seqlen", cu_chunk_seqlen, ends.size(0));
        p.last_chunk = Numbers("last_chunk_indices", last_chunk, sequences);
      }
    }
    CheckIndices(cache_indices, p);
    p.softplus = delta_softplus;
    p.null_slot = null_block_id;
    LaunchScan(p, launch);
  });
}
