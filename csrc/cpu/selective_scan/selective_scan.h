// Selective state spaces (Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State
// Spaces", 2023; Dao and Gu, "Transformers are SSMs", 2024, whose heads share a decay).
//
// For each sequence, head h of group g = h / (heads / groups) and row d of it, with the state S of
// `dstate` numbers and dt = dt[t, h, d], in float32 and token by token:
//   S = exp(A[h, d] dt) S + x[t, h, d] dt B[t, g];  y = S . C[t, g] + D[h, d] x[t, h, d]
//   out[t, h, d] = y, or y silu(z[t, h, d]) with z
#ifndef VLLM_KERNELS_CPU_SELECTIVE_SCAN_SELECTIVE_SCAN_H_
#define VLLM_KERNELS_CPU_SELECTIVE_SCAN_SELECTIVE_SCAN_H_

#include <cstddef>
#include <cstdint>

#include "core/abi.h"

extern "C" {

// Prompts: sequence s begins with the state of final_states[s], and leaves its last state there.
//   out, x, z: T [tokens, heads, dim], z may be null; T is float32, bfloat16 or float16
//   final_states: float32 [sequences, heads, dim, dstate], last dimension contiguous, in place
//   dt: float32 or T [tokens, heads] or [tokens, heads, dim]
//   A: float32 or T [heads], or [heads, dim, dstate], where expanded dimensions cost nothing
//   B, C: T [tokens, groups, dstate]
//   D: float32 or T [heads] or [heads, dim], or null for 0
//   starts: int32 [sequences + 1]: the sequences' first tokens
VK_EXPORT vk_status vk_cpu_mamba_chunk_scan(const vk_tensor* out, const vk_tensor* final_states,
                                            const vk_tensor* x, const vk_tensor* dt,
                                            const vk_tensor* A, const vk_tensor* B,
                                            const vk_tensor* C, const vk_tensor* D,
                                            const vk_tensor* z, const vk_tensor* starts);

// Next tokens: sequence s begins with the state of slot from[s] and leaves its last one in slot
// to[s]. dt is dt + dt_bias, and its softplus with `softplus`.
//   state: float32 or T [slots, heads, dim, dstate], last dimension contiguous, in place
//   dt_bias: float32 or T [heads] or [heads, dim], or null for 0
//   from, to: int32 [sequences] or [sequences, columns]; from null: s itself, to null: as from.
//     A sequence whose slot is `null_slot` is skipped, and its output left alone; a state is not
//     kept where `to` is null_slot. Sequences run at once: a slot that one writes may be no
//     other's, which is trusted, not checked
//   accepted: int32 [sequences] or null. With it, drafted tokens: the sequence begins with slot
//     from[s, max(accepted[s] - 1, 0)], and the state behind its token t goes to slot to[s, t]
//   starts: as above, or null: a token each
VK_EXPORT vk_status vk_cpu_selective_state_update(
    const vk_tensor* state, const vk_tensor* x, const vk_tensor* dt, const vk_tensor* A,
    const vk_tensor* B, const vk_tensor* C, const vk_tensor* D, const vk_tensor* z,
    const vk_tensor* dt_bias, int32_t softplus, const vk_tensor* from, const vk_tensor* to,
    int64_t null_slot, const vk_tensor* out, const vk_tensor* accepted, const vk_tensor* starts);

}  // extern "C"

namespace vk {

// Rows [tokens, heads, width] of any strides, which count elements.
struct ScanRows {
  char* data;
  int64_t token, head, element;
};

// What all tasks of a call share.
struct SelectiveScan {
  ScanRows x, z, out, b, c;  // z.data is null without z
  const float* steps;        // dt, [tokens, heads, step_width]
  int64_t step_width;        // dim, or 1 for a step of all rows
  const float* a;
  int64_t a_head, a_row, a_element;  // strides
  const float* d;                    // [heads, dim], or null
  char* states;
  int64_t slot, head, row;  // strides of the states
  int64_t heads, group;     // group: heads for each group of b and c
  int64_t dim, dstate;

  // One decay for all rows and elements of a head.
  bool tied() const { return step_width == 1 && a_row == 0 && a_element == 0; }
};

struct ScanSequence {
  int64_t first, tokens;
  int64_t from;
  int64_t to;            // negative: the last state is not kept
  const int32_t* slots;  // or the slot of the state behind each token
  int64_t slots_stride;
  int64_t null_slot;  // one of `slots` that keeps nothing
};

// A task has at most so many rows of a head.
constexpr int64_t kScanRows = 64;

struct SelectiveScanTable {
  // dt + bias and its softplus; bias is null for none. Index: vk_dtype.
  void (*steps[3])(float* to, const void* from, ptrdiff_t stride, const float* bias, size_t count,
                   bool softplus);
  void (*widen[3])(float* to, const void* from, size_t count);
  size_t (*scratch_floats)(int64_t dstate);
  // One sequence's `rows` rows of a head from `row` on. The first index is the dtype of the states,
  // the second that of the rest.
  void (*scan[3][3])(const SelectiveScan& scan, const ScanSequence& sequence, int64_t head,
                     int64_t row, int64_t rows, float* scratch);
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_SELECTIVE_SCAN_SELECTIVE_SCAN_H_
