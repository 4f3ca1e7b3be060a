#include "cpu/gemm/gemm_onednn.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <oneapi/dnnl/dnnl.hpp>

#include "cpu/dispatch.h"
#include "cpu/gemm/gemm.h"

namespace vk {
namespace {

// From this many rows on, oneDNN's float kernels are faster than ours
// (benchmarks/cpu/bench_gemm.py). For fewer rows, and for bfloat16 and int8 on AMX, ours are.
constexpr int64_t kManyRows = 192;

// The instructions of a tier in oneDNN's words. A tier that is missing here never uses oneDNN.
struct TierIsa {
  const char* tier;
  dnnl::cpu_isa isa;
};
constexpr TierIsa kTierIsas[] = {{"avx2", dnnl::cpu_isa::avx2},
                                 {"avx512", dnnl::cpu_isa::avx512_core},
                                 {"avx512_bf16", dnnl::cpu_isa::avx512_core_bf16},
                                 {"amx", dnnl::cpu_isa::avx512_core_amx}};

const char* BestTier() {
  const char* best = "";
  int32_t runnable = 0;
  for (int32_t index = 0; const char* name = vk_cpu_tier(index, &runnable); ++index) {
    if (runnable) best = name;
  }
  return best;
}

// Limits oneDNN to the instructions of the best tier of this build, which may leave out higher ones
// on purpose. False where oneDNN refuses, because something else in the process has used it before.
bool LimitIsa(const char* tier) {
  for (const TierIsa& level : kTierIsas) {
    if (std::strcmp(level.tier, tier) != 0) continue;
    // A limit that the user has set stays.
    if (std::getenv("ONEDNN_MAX_CPU_ISA") == nullptr) dnnl::set_max_cpu_isa(level.isa);
    const auto allowed = static_cast<unsigned>(level.isa);
    return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & ~allowed) == 0;
  }
  return false;
}

// oneDNN accepts its limit once per process, so it serves the best tier only. Where a lower tier is
// forced, our kernels multiply.
bool ServesActiveTier() {
  static const char* const best = BestTier();
  if (std::strcmp(vk_cpu_isa(), best) != 0) return false;
  static const bool limited = LimitIsa(best);
  return limited;
}

const dnnl::engine& Engine() {
  // Never destroyed: oneDNN's own globals may go first when the process exits.
  static const dnnl::engine* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

dnnl::memory Memory(const dnnl::memory::desc& desc, const void* data) {
  return dnnl::memory(desc, Engine(), const_cast<void*>(data));
}

bool Multiply(const GemmCall& call) {
  using Desc = dnnl::memory::desc;
  using Tag = dnnl::memory::format_tag;
  const auto type =
      call.a.dtype == VK_F32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::f16;
  const int64_t rows = call.a.shape[0], depth = call.a.shape[1], columns = call.c.shape[1];
  const Desc a({rows, depth}, type, dnnl::memory::dims{call.a.stride[0], 1});
  const Desc c({rows, columns}, type, dnnl::memory::dims{call.c.stride[0], 1});
  const Desc b({depth, columns}, type, Tag::BA16a64b);
  const Desc bias = call.bias == nullptr ? Desc() : Desc({1, columns}, type, Tag::ab);
  if (b.get_size() != call.weights.panels * call.weights.panel_bytes()) return false;

  dnnl::primitive_attr attributes;
  // Overrides the environment. The C++ wrapper of newer headers calls a function that oneDNN 3.2
  // lacks.
  dnnl_primitive_attr_set_fpmath_mode(attributes.get(), dnnl_fpmath_mode_strict);
  // Creation is cheap beside so many rows: oneDNN caches the generated code.
  const dnnl::matmul::primitive_desc desc(Engine(), a, b, bias, c, attributes,
                                          /*allow_empty=*/true);
  // oneDNN's fallbacks accept the layout too, at a fraction of the speed.
  if (desc.get(true) == nullptr || std::strncmp(desc.impl_info_str(), "brg", 3) != 0) return false;

  dnnl::stream stream(Engine());
  dnnl::matmul(desc).execute(stream, {{DNNL_ARG_SRC, Memory(a, call.a.data)},
                                      {DNNL_ARG_WEIGHTS, Memory(b, call.weights.data.get())},
                                      {DNNL_ARG_BIAS, Memory(bias, call.bias)},
                                      {DNNL_ARG_DST, Memory(c, call.c.data)}});
  stream.wait();
  return true;
}

}  // namespace

bool RunOnednn(const GemmCall& call) {
  const bool wanted = call.a.dtype == VK_F32 || call.a.dtype == VK_F16;
  if (!wanted || call.a.shape[0] < kManyRows || call.a.shape[1] == 0) return false;
  if (!ServesActiveTier()) return false;
  try {
    return Multiply(call);
  } catch (const dnnl::error& error) {
    if (error.status == dnnl_out_of_memory) throw std::bad_alloc();
    return false;  // strides that oneDNN does not take, for instance
  }
}

}  // namespace vk

extern "C" const char* vk_cpu_gemm_backends(void) { return "vllm_kernels, onednn"; }
