// Bindings of ops to the dispatcher, held against ops.def when they are compiled.
//
//   VK_BIND(CUDA, rms_norm, vk_cuda_rms_norm);     // a C ABI function
//   VK_IMPL(CUDA, grouped_topk, GroupedTopk);      // one of Tensor, std and plain types
//
// VK_BIND is for ops that only pass views: each argument of the schema is one parameter (Tensor:
// const vk_tensor*, null for an absent optional; float: double; int: int64_t; bool: bool or
// int32_t; str: const char*). The op's name may come before them, for a function that serves
// several ops. A stream may come after them: it makes this a function of CUDA views, which is
// called while the GPU of the first tensor that is only read is current. A fourth argument of the
// macro names another tensor for that.
//
// VK_IMPL is for what VK_BIND cannot pass. On the CPU it takes const vk_tensor* too.
//
// Either checks what holds for the tensors of every op (arguments.h) before the function runs.
//
// A family's binding.cc binds every op that ops.def gives the family on its device; otherwise the
// linker misses vk_binding_of_OP.
#ifndef VLLM_KERNELS_TORCH_BIND_H_
#define VLLM_KERNELS_TORCH_BIND_H_

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "torch/arguments.h"
#include "torch/convert.h"
#include "torch/cuda_stream.h"
#include "torch/registry.h"
#include "torch/schema.h"

namespace vk::binding {

// Of this translation unit: csrc/DEVICE/FAMILY/binding.cc.
static constexpr std::string_view kThisFamily = FolderOf(__BASE_FILE__, 0);
static constexpr std::string_view kThisDevice = FolderOf(__BASE_FILE__, 1);

template <size_t kRow>
inline constexpr Schema kSchema = ParseSchema(kOps[kRow].schema);

// An argument's name as messages need it, with a terminator.
template <size_t kRow, size_t kAt>
inline constexpr auto kArgumentName = [] {
  constexpr std::string_view name = kSchema<kRow>.arguments[kAt].name;
  std::array<char, name.size() + 1> text{};
  for (size_t at = 0; at < name.size(); ++at) text[at] = name[at];
  return text;
}();

// Whether a parameter of that type takes what the dispatcher passes for the argument.
template <class Parameter>
constexpr bool Takes(const Argument& argument) {
  using Value = std::remove_cvref_t<Parameter>;
  const auto is = [&](std::string_view type, bool optional) {
    return argument.type == type && argument.optional == optional;
  };
  if constexpr (std::is_same_v<Value, const vk_tensor*>) return argument.type == "Tensor";
  if constexpr (std::is_same_v<Value, const char*>) return is("str", false);
  if constexpr (std::is_same_v<Value, int32_t>) return is("bool", false);
  if constexpr (std::is_same_v<Value, Tensor>) return is("Tensor", false);
  if constexpr (std::is_same_v<Value, std::optional<Tensor>>) return is("Tensor", true);
  if constexpr (std::is_same_v<Value, std::vector<Tensor>>) return is("Tensor[]", false);
  if constexpr (std::is_same_v<Value, std::optional<std::vector<Tensor>>>) {
    return is("Tensor[]", true);
  }
  if constexpr (std::is_same_v<Value, double>) return is("float", false);
  if constexpr (std::is_same_v<Value, std::optional<double>>) return is("float", true);
  if constexpr (std::is_same_v<Value, int64_t>) return is("int", false);
  if constexpr (std::is_same_v<Value, std::optional<int64_t>>) return is("int", true);
  if constexpr (std::is_same_v<Value, bool>) return is("bool", false);
  if constexpr (std::is_same_v<Value, std::string>) return is("str", false);
  if constexpr (std::is_same_v<Value, std::optional<std::string>>) return is("str", true);
  if constexpr (std::is_same_v<Value, ScalarType>) return is("ScalarType", false);
  if constexpr (std::is_same_v<Value, std::optional<ScalarType>>) return is("ScalarType", true);
  if constexpr (std::is_same_v<Value, std::vector<int64_t>>) return is("int[]", false);
  if constexpr (std::is_same_v<Value, std::optional<std::vector<int64_t>>>) {
    return is("int[]", true);
  }
  if constexpr (std::is_same_v<Value, std::vector<std::vector<int64_t>>>) {
    return is("int[][]", false);
  }
  return false;
}

template <class Result>
constexpr bool Gives(std::string_view results) {
  if constexpr (std::is_void_v<Result>) return results == "()";
  if constexpr (std::is_same_v<Result, bool>) return results == "bool";
  if constexpr (std::is_same_v<Result, int64_t>) return results == "int";
  if constexpr (std::is_same_v<Result, std::string>) return results == "str";
  if constexpr (std::is_same_v<Result, Tensor>) return results == "Tensor";
  if constexpr (std::is_same_v<Result, std::vector<Tensor>>) return results == "Tensor[](a)";
  if constexpr (std::is_same_v<Result, std::tuple<Tensor, Tensor>>) {
    return results == "(Tensor, Tensor)";
  }
  if constexpr (std::is_same_v<Result, std::tuple<Tensor, Tensor, Tensor>>) {
    return results == "(Tensor, Tensor, Tensor)";
  }
  if constexpr (std::is_same_v<Result, std::tuple<int64_t, Tensor>>) {
    return results == "(int, Tensor)";
  }
  if constexpr (std::is_same_v<Result, std::tuple<std::vector<int64_t>, std::vector<int64_t>>>) {
    return results == "(int[], int[])";
  }
  return false;
}

// The dispatcher's type of an argument that a C parameter takes.
template <class Parameter, bool kOptional>
struct Passed {
  using type = Parameter;
};
template <>
struct Passed<const vk_tensor*, false> {
  using type = Tensor;
};
template <>
struct Passed<const vk_tensor*, true> {
  using type = std::optional<Tensor>;
};
template <>
struct Passed<int32_t, false> {
  using type = bool;
};
template <>
struct Passed<const char*, false> {
  using type = std::string;
};

// The place of the tensor whose GPU is made current.
constexpr size_t PlaceOfDevice(const Schema& schema, std::string_view name) {
  size_t written = schema.count;
  for (size_t at = 0; at < schema.count; ++at) {
    const Argument& argument = schema.arguments[at];
    if (name.empty() ? argument.type == "Tensor" && !argument.optional && !argument.written
                     : argument.name == name) {
      return at;
    }
    if (name.empty() && argument.type == "Tensor" && !argument.optional) {
      written = written < at ? written : at;
    }
  }
  return written;
}

template <size_t kRow>
inline constexpr auto kUses = FindUses(kOps[kRow].name, kSchema<kRow>);

// The tensors of a call, in the schema's order.
template <size_t kRow>
class Operands {
 public:
  template <size_t kAt>
  void Add(const vk_tensor* view) {
    all_[count_++] = {kArgumentName<kRow, kAt>.data(), view, kUses<kRow>[kAt],
                      uint32_t { 1 } << kAt};
  }
  void Check() const {
    CheckMemory(kOps[kRow].name.data(), all_, count_);
    if constexpr (MakesTensors(kOps[kRow].name, kSchema<kRow>)) {
      CheckExpansions(kOps[kRow].name.data(), all_, count_);
    }
  }

 private:
  static constexpr size_t kMost = [] {
    size_t tensors = 1;  // no array is empty
    for (const Argument& argument : kSchema<kRow>.arguments) tensors += argument.type == "Tensor";
    return tensors;
  }();
  Operand all_[kMost];
  size_t count_ = 0;
};

template <size_t kRow, size_t kAt, class Value>
void CheckPresentAt(const Value& value) {
  if constexpr (kSchema<kRow>.arguments[kAt].type == "Tensor") {
    CheckPresent(kOps[kRow].name.data(), kArgumentName<kRow, kAt>.data(), value);
  }
}

// What becomes of the arguments, each made in place: a view is a hundred bytes.
template <size_t kAt, class Value>
struct Given {
  Value value;
};
template <class Places, class... Values>
struct AllGiven;
template <size_t... kAt, class... Values>
struct AllGiven<std::index_sequence<kAt...>, Values...> : Given<kAt, Values>... {};

template <size_t kAt, class Value>
const Value& At(const Given<kAt, Value>& given) {
  return given.value;
}

template <size_t kRow, auto kFunction, size_t kDevicePlace, class Signature>
struct Boxer;

// The boxed function of a C ABI function.
template <size_t kRow, auto kFunction, size_t kDevicePlace, class... Parameters>
struct Boxer<kRow, kFunction, kDevicePlace, vk_status (*)(Parameters...)> {
  template <size_t kAt>
  using Parameter = std::tuple_element_t<kAt, std::tuple<Parameters...>>;

  static constexpr const Schema& kWanted = kSchema<kRow>;
  static constexpr bool kNamed =
      std::is_same_v<Parameter<0>, const char*> && kWanted.arguments[0].type != "str";
  static constexpr bool kOnStream = std::is_same_v<Parameter<sizeof...(Parameters) - 1>, void*>;
  static_assert(sizeof...(Parameters) == kNamed + kWanted.count + kOnStream,
                "VK_BIND: the C function takes another number of arguments than the op's schema in "
                "csrc/torch/ops.def (a leading op name and a trailing stream aside)");
  static_assert(kWanted.results == "()",
                "VK_BIND: the op returns something, which a C function cannot: use VK_IMPL");
  static_assert(!kOnStream || kDevicePlace < kWanted.count,
                "VK_BIND: the op's schema has no tensor of that name, whose GPU would be current");

  static void Call(StableIValue* stack, uint64_t, uint64_t) {
    Unpack(stack, std::make_index_sequence<kWanted.count>());
  }

 private:
  static constexpr const char* kOp = kOps[kRow].name.data();

  template <size_t kAt>
  struct Slot {
    using C = Parameter<kAt + kNamed>;
    static constexpr const Argument& kArgument = kWanted.arguments[kAt];
    static_assert(Takes<C>(kArgument),
                  "VK_BIND: a parameter of the C function is of another type than the argument at "
                  "that place (Slot<place>) in the op's schema in csrc/torch/ops.def");
    using Value = typename Passed<C, kArgument.optional>::type;
  };

  template <size_t... kAt>
  static void Unpack(StableIValue* stack, std::index_sequence<kAt...> places) {
    // All of them first: they own what the stack holds, whatever is thrown afterwards.
    const auto values = torch::stable::detail::unbox_to_tuple<typename Slot<kAt>::Value...>(stack);
    RunNamed(kOp, [&] {
      (CheckPresentAt<kRow, kAt>(std::get<kAt>(values)), ...);
      if constexpr (kOnStream) {
        Run(CudaScope(kOp, std::get<kDevicePlace>(values)), values, places);
      } else {
        Run(CpuScope(kOp), values, places);
      }
    });
  }

  template <class Scope, class Values, size_t... kAt>
  static void Run(const Scope& scope, const Values& values, std::index_sequence<kAt...>) {
    const AllGiven<std::index_sequence<kAt...>,
                   decltype(Give<kAt>(scope, std::get<kAt>(values)))...>
        given{{Give<kAt>(scope, std::get<kAt>(values))}...};
    Operands<kRow> operands;
    (AddOperand<kAt>(operands, At<kAt>(given)), ...);
    operands.Check();
    const auto call = [&](const auto&... more) {
      if constexpr (kNamed) {
        Check(kFunction(kOp, At<kAt>(given)..., more...));
      } else {
        Check(kFunction(At<kAt>(given)..., more...));
      }
    };
    if constexpr (kOnStream) {
      call(scope.stream());
    } else {
      call();
    }
  }

  template <size_t kAt, class Value>
  static void AddOperand(Operands<kRow>& operands, const Value& value) {
    if constexpr (std::is_same_v<typename Slot<kAt>::C, const vk_tensor*>) {
      operands.template Add<kAt>(value);
    }
  }

  template <size_t kAt, class Scope, class Value>
  static auto Give(const Scope& scope, const Value& value) {
    if constexpr (std::is_same_v<typename Slot<kAt>::C, const vk_tensor*>) {
      return scope.View(kArgumentName<kRow, kAt>.data(), value);
    } else if constexpr (std::is_same_v<Value, std::string>) {
      return value.c_str();
    } else {
      return value;
    }
  }
};

// The boxed function of one that takes and gives the dispatcher's types.
template <size_t kRow, auto kFunction, size_t kDevicePlace, class Result, class... Parameters>
struct Boxer<kRow, kFunction, kDevicePlace, Result (*)(Parameters...)> {
  static_assert(sizeof...(Parameters) == kSchema<kRow>.count,
                "VK_IMPL: the function takes another number of arguments than the op's schema in "
                "csrc/torch/ops.def");
  static_assert(
      []<size_t... kAt>(std::index_sequence<kAt...>) {
        return (Takes<Parameters>(kSchema<kRow>.arguments[kAt]) && ...);
      }(std::make_index_sequence<sizeof...(Parameters)>()),
      "VK_IMPL: a parameter of the function is of another type than the argument at that place in "
      "the op's schema in csrc/torch/ops.def");
  static_assert(Gives<Result>(kSchema<kRow>.results),
                "VK_IMPL: the function returns something else than the op's schema in "
                "csrc/torch/ops.def says");

  static void Call(StableIValue* stack, uint64_t, uint64_t) {
    Unpack(stack, std::make_index_sequence<sizeof...(Parameters)>());
  }

 private:
  static constexpr const char* kOp = kOps[kRow].name.data();

  template <size_t kAt>
  using Parameter = std::remove_cvref_t<std::tuple_element_t<kAt, std::tuple<Parameters...>>>;
  template <size_t kAt>
  using Value = typename Passed<Parameter<kAt>, kSchema<kRow>.arguments[kAt].optional>::type;

  template <size_t... kAt>
  static void Unpack(StableIValue* stack, std::index_sequence<kAt...>) {
    const auto values = torch::stable::detail::unbox_to_tuple<Value<kAt>...>(stack);
    RunNamed(kOp, [&] {
      (CheckPresentAt<kRow, kAt>(std::get<kAt>(values)), ...);
      [[maybe_unused]] vk_tensor views[sizeof...(Parameters) + 1];
      Operands<kRow> operands;
      (AddOperand<kAt>(operands, std::get<kAt>(values), views[kAt]), ...);
      operands.Check();
      if constexpr (std::is_void_v<Result>) {
        kFunction(Give<kAt>(std::get<kAt>(values), views[kAt])...);
      } else {
        Return(stack, kFunction(Give<kAt>(std::get<kAt>(values), views[kAt])...));
      }
    });
  }

  template <size_t kAt, class Value>
  static void AddOperand(Operands<kRow>& operands, const Value& value, vk_tensor& view) {
    if constexpr (std::is_same_v<Value, std::optional<Tensor>>) {
      if (value.has_value()) AddOperand<kAt>(operands, *value, view);
    } else if constexpr (std::is_same_v<Value, Tensor>) {
      constexpr const char* name = kArgumentName<kRow, kAt>.data();
      if constexpr (std::is_same_v<Parameter<kAt>, const vk_tensor*>) CheckCpu(kOp, name, value);
      view = ToView(kOp, name, value);
      operands.template Add<kAt>(&view);
    }
  }

  template <size_t kAt, class Value>
  static decltype(auto) Give(const Value& value, const vk_tensor& view) {
    if constexpr (!std::is_same_v<Parameter<kAt>, const vk_tensor*>) {
      return (value);
    } else if constexpr (std::is_same_v<Value, Tensor>) {
      return &view;
    } else {
      return value.has_value() ? &view : nullptr;
    }
  }

  template <class One>
  static void Return(StableIValue* stack, const One& result) {
    *stack = torch::stable::detail::from(result);
  }
  template <class... Several>
  static void Return(StableIValue* stack, const std::tuple<Several...>& results) {
    torch::stable::detail::box_from_tuple<Several...>(stack, results);
  }
};

// Whether the op is this family's, or no op at all, which is said elsewhere.
constexpr bool BelongsHere(size_t row) {
  return row == std::size(kOps) || kOps[row].family == kThisFamily;
}

}  // namespace vk::binding

#define VK_BIND(...) VK_BINDING_OF(__VA_ARGS__, )
#define VK_IMPL(...) VK_BINDING_OF(__VA_ARGS__, )

#define VK_BINDING_OF(key, op, function, device, ...)                                          \
  static_assert(::vk::binding::RowOf(#op) < std::size(::vk::binding::kOps),                    \
                "csrc/torch/ops.def has no op " #op);                                          \
  static_assert(::vk::binding::BelongsHere(::vk::binding::RowOf(#op)),                         \
                "csrc/torch/ops.def gives " #op " to another family than this file's folder"); \
  extern "C" {                                                                                 \
  extern __attribute__((visibility("hidden"))) const char vk_binding_of_##op;                  \
  const char vk_binding_of_##op = 0;                                                           \
  }                                                                                            \
  static const ::vk::binding::Binding vk_registered_##op(                                      \
      #key, #op,                                                                               \
      ::vk::binding::Boxer<::vk::binding::RowOf(#op), &function,                               \
                           ::vk::binding::PlaceOfDevice(                                       \
                               ::vk::binding::kSchema<::vk::binding::RowOf(#op)>, #device),    \
                           decltype(&function)>::Call)

// The family's ops on this device: the linker finds a binding of each.
#define VK_ROW(devices, kernels, family, name_space, name, signature)           \
  extern "C" {                                                                  \
  extern __attribute__((visibility("hidden"))) const char vk_binding_of_##name; \
  }
#include "torch/ops.def"

namespace vk::binding {

constexpr bool BoundHere(std::string_view kernels, std::string_view family) {
  return family == kThisFamily && kernels.find(kThisDevice) != kernels.npos;
}

__attribute__((used)) static const char* const kBoundHere[] = {
#define VK_ROW(devices, kernels, family, name_space, name, signature) \
  BoundHere(kernels, #family) ? &vk_binding_of_##name : nullptr,
#include "torch/ops.def"
};

}  // namespace vk::binding

#endif  // VLLM_KERNELS_TORCH_BIND_H_
