// What holds for the tensors of every op, whatever it computes, by the schemas of ops.def: there is
// one where one is wanted, its memory can exist, and what the op writes is nobody else's.
#ifndef VLLM_KERNELS_TORCH_ARGUMENTS_H_
#define VLLM_KERNELS_TORCH_ARGUMENTS_H_

#include <array>
#include <cstdint>
#include <string>

#include "torch/convert.h"
#include "torch/schema.h"

namespace vk::binding {

// Where an op departs from what its schema, which is the engine's, says.
enum class Access { kReads, kWrites, kInPlace, kGivesView };
struct Exception {
  std::string_view op, argument;
  Access access;
  std::string_view with = {};  // kInPlace: this argument may be the same elements
};

// kInPlace: each element is read before it is written, by the same thread.
inline constexpr Exception kExceptions[] = {
    {"rms_norm", "result", Access::kInPlace, "input"},
    {"gelu_new", "out", Access::kInPlace, "input"},
    {"gelu_fast", "out", Access::kInPlace, "input"},
    {"gelu_quick", "out", Access::kInPlace, "input"},
    {"gelu_tanh", "out", Access::kInPlace, "input"},
    {"relu_squared", "out", Access::kInPlace, "input"},
    {"merge_attn_states", "output", Access::kInPlace, "prefix_output"},
    {"merge_attn_states", "output", Access::kInPlace, "suffix_output"},
    {"merge_attn_states", "output_lse", Access::kInPlace, "prefix_lse"},
    {"merge_attn_states", "output_lse", Access::kInPlace, "suffix_lse"},
    // Blocks move within one cache too; the caller's mapping says which.
    {"swap_blocks", "dst", Access::kInPlace, "src"},
    {"causal_conv1d_update_cpu_vec", "x", Access::kReads},
    {"eagle_step_slot_mapping_metadata_kernel_impl", "out_clamped_positions", Access::kInPlace,
     "positions"},
    {"marlin_gemm", "c_or_none", Access::kWrites},
    {"moe_wna16_marlin_gemm", "c_or_none", Access::kWrites},
    {"moe_wna16_marlin_gemm", "a", Access::kReads},
    {"moe_wna16_marlin_gemm", "b_q_weight", Access::kReads},
    {"moe_wna16_marlin_gemm", "b_scales", Access::kReads},
    {"moe_wna16_marlin_gemm", "expert_ids", Access::kReads},
    {"moe_wna16_marlin_gemm", "num_tokens_past_padded", Access::kReads},
    {"moe_wna16_marlin_gemm", "topk_weights", Access::kReads},
    {"selective_scan_fwd", "u", Access::kReads},
    {"selective_scan_fwd", "A", Access::kReads},
    {"selective_scan_fwd", "B", Access::kReads},
    {"selective_scan_fwd", "C", Access::kReads},
    {"weak_ref_tensor", "input", Access::kGivesView},
};

// What the op does with one argument.
struct Use {
  bool written = false;
  uint32_t in_place = 0;  // bit per argument that may be the same elements
};
static_assert(kMaxArguments <= 32);

constexpr size_t PlaceOf(const Schema& schema, std::string_view name) {
  size_t at = 0;
  while (at < schema.count && schema.arguments[at].name != name) ++at;
  return at;
}

constexpr std::array<Use, kMaxArguments> FindUses(std::string_view op, const Schema& schema) {
  std::array<Use, kMaxArguments> uses{};
  for (size_t at = 0; at < schema.count; ++at) uses[at].written = schema.arguments[at].written;
  for (const Exception& one : kExceptions) {
    if (one.op != op) continue;
    Use& use = uses.at(PlaceOf(schema, one.argument));
    if (one.access == Access::kInPlace) {
      use.in_place |= uint32_t{1} << PlaceOf(schema, one.with);
    } else {
      use.written = one.access == Access::kWrites;
    }
  }
  return uses;
}

// A tensor argument of a call; no view where an optional one is absent.
struct Operand {
  const char* name;
  const vk_tensor* view;
  Use use;
  uint32_t bit;  // of its place in the schema
};

std::string Sizes(const int64_t* numbers, size_t count);  // "[2, 3]"

// Throws a sentence with the op's and an argument's name where memory does not serve.
void CheckMemory(const char* op, const Operand* operands, size_t count);

// Whether the op makes tensors of its arguments' sizes: its results, or what its handle names.
constexpr bool MakesTensors(std::string_view op, const Schema& schema) {
  for (const Exception& one : kExceptions) {
    if (one.op == op && one.access == Access::kGivesView) return false;
  }
  return schema.results.find("Tensor") != schema.results.npos || op.starts_with("create_");
}

// For ops that make their results, which have the sizes of their arguments: a few bytes can be
// expanded to any number of elements, and a result of as many would take minutes and all memory.
void CheckExpansions(const char* op, const Operand* operands, size_t count);

inline void CheckPresent(const char* op, const char* name, const Tensor& tensor) {
  if (!tensor.defined()) Refuse(op, name, " is None, want a tensor");
}
inline void CheckPresent(const char* op, const char* name, const std::optional<Tensor>& tensor) {
  if (tensor.has_value()) CheckPresent(op, name, *tensor);
}

}  // namespace vk::binding
#endif  // VLLM_KERNELS_TORCH_ARGUMENTS_H_
