// Calls the C ABI of libvllm_kernels_cpu for a process of another architecture: reads requests on
// standard input, answers on standard output (driver.py). Both sides are little-endian.
//
// A request is its length (u32), the function's name, the storages (count u32; each: bytes u64,
// then the content) and the arguments (count u32), each with a kind in front:
//   0 null · 1 tensor: storage u32, offset u64 in bytes, dtype i32, ndim i32, shape, stride i64
//   each 2 integer i64 · 3 number f64 · 4 text: length u32, bytes
// An answer is its length, status i32, result i64, four i32, a text, and the storages' new content.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/cpu_features.h"
#include "cpu/dispatch.h"
#include "cpu_functions.h"  // generated (vllm_conda.emulate)

namespace {

[[noreturn]] void Die(const std::string& reason) {
  std::fprintf(stderr, "driver: %s\n", reason.c_str());
  std::exit(2);
}

// Memory that ends where the next page cannot be touched: a kernel that reads or writes past a
// storage dies here, where it would go unnoticed elsewhere.
class Storage {
 public:
  explicit Storage(size_t bytes) : bytes_(bytes) {
    const size_t page = sysconf(_SC_PAGESIZE);
    const size_t used = (bytes + 7) / 8 * 8;  // the alignment of any element
    mapped_ = (used + page - 1) / page * page + page;
    void* memory =
        mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) Die("out of memory");
    base_ = static_cast<char*>(memory);
    char* end = base_ + mapped_ - page;
    if (mprotect(end, page, PROT_NONE) != 0) Die("mprotect failed");
    data_ = end - used;
  }
  Storage(Storage&& other) noexcept { *this = std::move(other); }
  Storage& operator=(Storage&& other) noexcept {
    std::swap(base_, other.base_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(mapped_, other.mapped_);
    return *this;
  }
  ~Storage() {
    if (base_ != nullptr) munmap(base_, mapped_);
  }
  char* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  char* base_ = nullptr;
  char* data_ = nullptr;
  size_t bytes_ = 0, mapped_ = 0;
};

class Reader {
 public:
  explicit Reader(std::vector<char> bytes) : bytes_(std::move(bytes)) {}
  template <class T>
  T Value() {
    T value;
    std::memcpy(&value, Take(sizeof(T)), sizeof(T));
    return value;
  }
  std::string Text() {
    const uint32_t size = Value<uint32_t>();
    return std::string(Take(size), size);
  }
  const char* Take(size_t size) {
    if (at_ + size > bytes_.size()) Die("the request is cut off");
    at_ += size;
    return bytes_.data() + at_ - size;
  }

 private:
  std::vector<char> bytes_;
  size_t at_ = 0;
};

struct Argument {
  enum Kind : uint8_t { kNull, kTensor, kInteger, kNumber, kText, kIntegers } kind = kNull;
  vk_tensor tensor{};
  int64_t integer = 0;
  double number = 0;
  std::string text;
  std::vector<int64_t> integers;
};

Argument ReadArgument(Reader& reader, const std::vector<Storage>& storages) {
  Argument argument;
  argument.kind = static_cast<Argument::Kind>(reader.Value<uint8_t>());
  switch (argument.kind) {
    case Argument::kNull:
      break;
    case Argument::kTensor: {
      const Storage& storage = storages.at(reader.Value<uint32_t>());
      argument.tensor.data = storage.data() + reader.Value<uint64_t>();
      argument.tensor.dtype = reader.Value<int32_t>();
      argument.tensor.ndim = reader.Value<int32_t>();
      for (int32_t i = 0; i < argument.tensor.ndim; ++i)
        argument.tensor.shape[i] = reader.Value<int64_t>();
      for (int32_t i = 0; i < argument.tensor.ndim; ++i)
        argument.tensor.stride[i] = reader.Value<int64_t>();
      break;
    }
    case Argument::kInteger:
      argument.integer = reader.Value<int64_t>();
      break;
    case Argument::kNumber:
      argument.number = reader.Value<double>();
      break;
    case Argument::kText:
      argument.text = reader.Text();
      break;
    case Argument::kIntegers:
      for (uint32_t left = reader.Value<uint32_t>(); left > 0; --left) {
        argument.integers.push_back(reader.Value<int64_t>());
      }
      break;
  }
  return argument;
}

// What a call hands back besides the tensors. An `int32_t*` or `int64_t*` parameter points here.
struct Answer {
  int32_t status = VK_OK;
  int64_t result = 0;
  std::string text;
  int32_t words[VK_ATTENTION_METADATA_LENGTH] = {};
};

using Arguments = std::vector<Argument>;
using Function = std::function<void(const Arguments&, Answer&)>;

// The next argument as a parameter of type T; outputs consume none.
template <class T>
T Convert(const Arguments& arguments, size_t& at, Answer& answer) {
  if constexpr (std::is_same_v<T, int64_t*>) {
    return &answer.result;
  } else if constexpr (std::is_same_v<T, int32_t*>) {
    return answer.words;
  } else {
    if (at >= arguments.size()) Die("too few arguments");
    const Argument& argument = arguments[at++];
    if constexpr (std::is_same_v<T, const vk_tensor*>) {
      return argument.kind == Argument::kNull ? nullptr : &argument.tensor;
    } else if constexpr (std::is_same_v<T, const int64_t*>) {
      return argument.kind == Argument::kNull ? nullptr : argument.integers.data();
    } else if constexpr (std::is_same_v<T, const char*>) {
      return argument.kind == Argument::kNull ? nullptr : argument.text.c_str();
    } else if constexpr (std::is_floating_point_v<T>) {
      return static_cast<T>(argument.number);
    } else {
      return static_cast<T>(argument.integer);
    }
  }
}

template <class... Parameters>
Function Bind(std::function<vk_status(Parameters...)> function) {
  return [function](const Arguments& arguments, Answer& answer) {
    size_t at = 0;
    // Braces: the arguments are converted from left to right.
    std::tuple<Parameters...> values{Convert<Parameters>(arguments, at, answer)...};
    answer.status = std::apply(function, values);
    if (at != arguments.size()) Die("too many arguments");
  };
}

template <class... Parameters>
Function Bind(vk_status (*function)(Parameters...)) {
  return Bind(std::function<vk_status(Parameters...)>(function));
}

vk_status Attention(const vk_tensor* query, const vk_tensor* key, const vk_tensor* value,
                    const vk_tensor* output, const vk_tensor* starts, const vk_tensor* lengths,
                    const vk_tensor* table, const vk_tensor* slopes, const vk_tensor* sinks,
                    const vk_tensor* dynamic, double scale, double softcap, int64_t window,
                    int32_t causal, double k_scale, double v_scale, const char* cache_dtype) {
  const vk_attention_args args{query,  key,    value,   output,  starts,     lengths,
                               table,  slopes, sinks,   dynamic, scale,      softcap,
                               window, causal, k_scale, v_scale, cache_dtype};
  return vk_cpu_attention(&args);
}

// Attention takes its arguments as structs.
Function Bind(vk_status (*)(const vk_attention_args*)) { return Bind(Attention); }

Function Bind(vk_status (*function)(const vk_row_attention_args*)) {
  return Bind(std::function(
      [function](const vk_tensor* query, const vk_tensor* output, const vk_tensor* k_buffer,
                 const vk_tensor* v_buffer, const vk_tensor* table, const vk_tensor* pool,
                 const vk_tensor* lengths, const vk_tensor* sinks, const vk_tensor* k_extend,
                 const vk_tensor* v_extend, const vk_tensor* new_lengths, const vk_tensor* starts,
                 double scale, double softcap, int64_t window) {
        const vk_row_attention_args args{query,       output,  k_buffer, v_buffer, table,
                                         pool,        lengths, sinks,    k_extend, v_extend,
                                         new_lengths, starts,  scale,    softcap,  window};
        return function(&args);
      }));
}

// "NAME 0|1" a line.
void DescribeTiers(const Arguments&, Answer& answer) {
  int32_t runnable = 0;
  for (int32_t i = 0; const char* name = vk_cpu_tier(i, &runnable); ++i) {
    answer.text += std::string(name) + (runnable ? " 1\n" : " 0\n");
  }
}

void DescribeIsa(const Arguments&, Answer& answer) {
  const char* name = vk_cpu_isa();
  if (name == nullptr) {
    answer.status = VK_UNSUPPORTED;
    return;
  }
  answer.text = name;
}

const std::map<std::string, Function>& Functions();

void DescribeFunctions(const Arguments&, Answer& answer) {
  for (const auto& [name, function] : Functions()) answer.text += name + "\n";
}

void DescribeFamilies(const Arguments&, Answer& answer) {
#define VK_CPU_FAMILY(family, Table) answer.text += #family "\n";
#include "cpu/generated/families.inc"
#undef VK_CPU_FAMILY
}

void DescribeBackends(const Arguments&, Answer& answer) { answer.text = vk_cpu_gemm_backends(); }

const std::map<std::string, Function>& Functions() {
  static const std::map<std::string, Function> functions = {
#define VK_ENTRY(name) {#name, Bind(vk_cpu_##name)}
      VK_CPU_FUNCTIONS(VK_ENTRY),
#undef VK_ENTRY
      {"set_isa", Bind(vk_cpu_set_isa)},
      {"functions", DescribeFunctions},
      {"families", DescribeFamilies},
      {"tiers", DescribeTiers},
      {"isa", DescribeIsa},
      {"gemm_backends", DescribeBackends},
  };
  return functions;
}

bool ReadAll(void* to, size_t size) { return std::fread(to, 1, size, stdin) == size; }

template <class T>
void Append(std::vector<char>& to, const T& value) {
  const char* bytes = reinterpret_cast<const char*>(&value);
  to.insert(to.end(), bytes, bytes + sizeof(T));
}

std::vector<char> Serve(std::vector<char> request) {
  Reader reader(std::move(request));
  const std::string name = reader.Text();
  std::vector<Storage> storages;
  for (uint32_t left = reader.Value<uint32_t>(); left > 0; --left) {
    const uint64_t bytes = reader.Value<uint64_t>();
    storages.emplace_back(bytes);
    if (bytes > 0) std::memcpy(storages.back().data(), reader.Take(bytes), bytes);
  }
  Arguments arguments;
  for (uint32_t left = reader.Value<uint32_t>(); left > 0; --left) {
    arguments.push_back(ReadArgument(reader, storages));
  }
  const auto found = Functions().find(name);
  if (found == Functions().end()) Die("no function " + name);
  Answer answer;
  found->second(arguments, answer);
  if (answer.status != VK_OK) answer.text = vk_last_error();

  std::vector<char> bytes;
  Append(bytes, answer.status);
  Append(bytes, answer.result);
  bytes.insert(bytes.end(), reinterpret_cast<char*>(answer.words),
               reinterpret_cast<char*>(answer.words) + sizeof(answer.words));
  Append(bytes, static_cast<uint32_t>(answer.text.size()));
  bytes.insert(bytes.end(), answer.text.begin(), answer.text.end());
  for (const Storage& storage : storages) {
    bytes.insert(bytes.end(), storage.data(), storage.data() + storage.bytes());
  }
  return bytes;
}

}  // namespace

int main() {
  for (uint32_t size; ReadAll(&size, sizeof(size));) {
    std::vector<char> request(size);
    if (!ReadAll(request.data(), size)) Die("the request is cut off");
    const std::vector<char> answer = Serve(std::move(request));
    const uint32_t answer_size = static_cast<uint32_t>(answer.size());
    std::fwrite(&answer_size, sizeof(answer_size), 1, stdout);
    std::fwrite(answer.data(), 1, answer.size(), stdout);
    std::fflush(stdout);
  }
  return 0;
}
