// The table of ops.def at compile time: ops.cc defines its schemas, VK_BIND and VK_IMPL (bind.h)
// hold every binding against them.
#ifndef VLLM_KERNELS_TORCH_SCHEMA_H_
#define VLLM_KERNELS_TORCH_SCHEMA_H_

#include <array>
#include <cstddef>
#include <iterator>
#include <string_view>

namespace vk::binding {

struct Op {
  const char* family;
  const char* devices;       // where the engine has it
  std::string_view kernels;  // where a kernel of ours serves it
  const char* name_space;    // the engine's; ours where the engine has none
  std::string_view name;
  std::string_view schema;
};

inline constexpr Op kOps[] = {
#define VK_ROW(devices, kernels, family, name_space, name, signature) \
  {#family, devices, kernels, #name_space, #name, #name signature},
#include "torch/ops.def"
};

// The place of the op of that name in kOps; its size where there is none.
constexpr size_t RowOf(std::string_view name) {
  size_t row = 0;
  while (row < std::size(kOps) && kOps[row].name != name) ++row;
  return row;
}

// One argument, such as `Tensor!? residual`, or one result.
struct Argument {
  std::string_view
      type;  // Tensor, Tensor[], int (SymInt too), float, bool, str, ScalarType, int[]...
  std::string_view name;
  bool optional = false;
  bool written = false;
};

constexpr std::string_view Trim(std::string_view text) {
  const size_t first = text.find_first_not_of(' ');
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(' ') + 1 - first);
}

// Where the list that opens at text[0] ends (`)`) or goes on (`,` outside inner brackets).
constexpr size_t EndOfItem(std::string_view text) {
  int depth = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    const char letter = text[at];
    if (depth == 0 && (letter == ',' || letter == ')')) return at;
    depth += (letter == '(' || letter == '[') - (letter == ')' || letter == ']');
  }
  return text.size();
}

constexpr Argument ParseArgument(std::string_view text) {
  text = Trim(text.substr(0, text.find('=')));
  const size_t blank = text.rfind(' ');
  Argument parsed;
  parsed.name = blank == text.npos ? std::string_view() : text.substr(blank + 1);
  parsed.type = text.substr(0, blank);
  parsed.optional = parsed.type.ends_with('?');
  parsed.written = parsed.type.find('!') != text.npos;
  const size_t brackets = parsed.type.find("[]");
  const std::string_view lists = brackets == text.npos ? "" : parsed.type.substr(brackets);
  parsed.type = parsed.type.substr(0, parsed.type.find_first_of("(!?["));
  if (parsed.type == "SymInt") parsed.type = "int";
  if (parsed.type == "int" && !lists.empty()) {
    parsed.type = lists.starts_with("[][]") ? "int[][]" : "int[]";
  }
  if (parsed.type == "Tensor" && !lists.empty()) parsed.type = "Tensor[]";
  return parsed;
}

inline constexpr size_t kMaxArguments = 32;

struct Schema {
  std::array<Argument, kMaxArguments> arguments{};
  size_t count = 0;
  std::string_view results;  // "()", "Tensor", "(Tensor, Tensor)"
};

constexpr Schema ParseSchema(std::string_view text) {
  Schema schema;
  text.remove_prefix(text.find('(') + 1);
  while (true) {
    const size_t end = EndOfItem(text);
    if (!Trim(text.substr(0, end)).empty()) {
      schema.arguments[schema.count++] = ParseArgument(text.substr(0, end));
    }
    const bool last = text[end] == ')';
    text.remove_prefix(end + 1);
    if (last) break;
  }
  schema.results = Trim(text.substr(text.find("->") + 2));
  return schema;
}

// A folder of a binding's file csrc/DEVICE/FAMILY/binding.cc: the family (0), the device (1).
constexpr std::string_view FolderOf(std::string_view file, int above) {
  for (; above >= 0; --above) file = file.substr(0, file.rfind('/'));
  return file.substr(file.rfind('/') + 1);
}

}  // namespace vk::binding
#endif  // VLLM_KERNELS_TORCH_SCHEMA_H_
