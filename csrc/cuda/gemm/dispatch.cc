#include "cuda/gemm/dispatch.h"

#include <string>
#include <string_view>

#include "cuda/common/launch.h"

namespace vk::cuda::gemm {
namespace {

Kind KindOf(const Problem& p) {
  if (p.dtype == VK_I8) return Kind::kInt8;
  return p.blocks ? Kind::kFp8Blocks : Kind::kFp8;
}

const char* Words(Kind kind) {
  switch (kind) {
    case Kind::kInt8:
      return "int8";
    case Kind::kFp8:
      return "float8_e4m3fn";
    default:
      return "float8_e4m3fn with scales for blocks";
  }
}

// Whether the library has machine code of exactly that name, such as 8.9 or 10.0f.
[[maybe_unused]] bool HasCode(int64_t capability, std::string_view suffix) {
  const std::string code =
      std::to_string(capability / 10) + "." + std::to_string(capability % 10) + std::string(suffix);
  const std::string_view archs = VK_CUDA_ARCHS;
  for (size_t at = archs.find(code); at != archs.npos; at = archs.find(code, at + 1)) {
    const size_t end = at + code.size();
    if ((at == 0 || archs[at - 1] == ' ') && (end == archs.size() || archs[end] == ' '))
      return true;
  }
  return false;
}

#ifdef VK_GEMM_C2X
// Code of 8.0 runs on 8.9 too, but multiplies no FP8.
bool ServesC2x(Kind kind, int64_t capability) {
  if (kind == Kind::kInt8) return capability == 75 || (capability >= 80 && capability < 90);
  return kind == Kind::kFp8 && capability == 89 && HasCode(89, "");
}

template <int kArch, Kind kKind>
void LaunchC2xBySize(const Problem& p) {
  if (p.m <= 64) return LaunchC2x<kArch, kKind, Tile::kFew>(p);
  return LaunchC2x<kArch, kKind, Tile::kMany>(p);
}

void RunC2x(Kind kind, const Problem& p) {
  if (kind == Kind::kFp8) return LaunchC2xBySize<89, Kind::kFp8>(p);
  if (p.capability < 80) return LaunchC2xBySize<75, Kind::kInt8>(p);
  return LaunchC2xBySize<80, Kind::kInt8>(p);
}
#endif

#ifdef VK_GEMM_SM90
// By measurement on an H100 and an H200 (benchmarks/cuda/bench_gemm.py). Of INT8, tiles of
// 128 x 256 are the faster ones where they leave no more multiprocessors idle at the end; of FP8
// they were the slower ones whenever the power limit set the clock.
template <Kind kKind>
void RunSm90By(const Problem& p) {
  if (p.m <= 16) return LaunchSm90<kKind, Tile::kRows16>(p);
  if (p.m <= 32) return LaunchSm90<kKind, Tile::kRows32>(p);
  if (p.m <= 64) return LaunchSm90<kKind, Tile::kRows64>(p);
  const auto rounds = [&](int64_t columns) {
    return CeilDiv(CeilDiv(p.m, 128) * CeilDiv(p.n, columns), p.multiprocessors);
  };
  if (p.m <= 128 || CeilDiv(p.m, 64) * CeilDiv(p.n, 128) <= p.multiprocessors) {
    return LaunchSm90<kKind, Tile::kRows128>(p);
  }
  if constexpr (kKind == Kind::kInt8) {
    if (p.m >= 2048 && 2 * rounds(256) <= rounds(128)) return LaunchSm90<kKind, Tile::kLarge>(p);
  }
  return LaunchSm90<kKind, Tile::kMany>(p);
}

void RunSm90(Kind kind, const Problem& p) {
  if (kind == Kind::kFp8) return RunSm90By<Kind::kFp8>(p);
  if (kind == Kind::kInt8) return RunSm90By<Kind::kInt8>(p);
  if (CeilDiv(p.m, 128) * CeilDiv(p.n, 128) < p.multiprocessors) {
    return LaunchSm90<Kind::kFp8Blocks, Tile::kFew>(p);
  }
  return LaunchSm90<Kind::kFp8Blocks, Tile::kMany>(p);
}
#endif

#ifdef VK_GEMM_SM100
// Code for a family's first GPU serves all of it, code for one GPU that one alone.
bool HasBlackwellCode(int64_t capability) {
  const int64_t family = capability == 103 ? 100 : capability;
  return HasCode(capability, "a") || HasCode(capability, "f") || HasCode(family, "f");
}

void RunSm100(Kind kind, const Problem& p) {
  if (kind == Kind::kFp8Blocks) return LaunchSm100<Kind::kFp8Blocks, Tile::kMany>(p);
  if (p.m <= 32) return LaunchSm100<Kind::kFp8, Tile::kFew>(p);
  if (CeilDiv(p.m, 256) * CeilDiv(p.n, 256) * 2 < p.multiprocessors) {
    return LaunchSm100<Kind::kFp8, Tile::kMany>(p);
  }
  return LaunchSm100<Kind::kFp8, Tile::kLarge>(p);
}
#endif

#ifdef VK_GEMM_SM120
bool HasWorkstationCode(int64_t capability) {
  return HasCode(capability, "a") || HasCode(capability, "f") || HasCode(120, "f");
}

template <Kind kKind>
void RunSm120As(const Problem& p) {
  if (p.m <= 64) return LaunchSm120<kKind, Tile::kFew>(p);
  return LaunchSm120<kKind, Tile::kMany>(p);
}

void RunSm120(Kind kind, const Problem& p) {
  if (kind == Kind::kFp8) return RunSm120As<Kind::kFp8>(p);
  return RunSm120As<Kind::kFp8Blocks>(p);
}
#endif

using Runner = void(Kind, const Problem&);

// What multiplies that kind on GPUs of `capability`; null: nothing in this library.
Runner* Find([[maybe_unused]] Kind kind, [[maybe_unused]] int64_t capability) {
#ifdef VK_GEMM_C2X
  if (ServesC2x(kind, capability)) return &RunC2x;
#endif
#ifdef VK_GEMM_SM90
  if (capability == 90) return &RunSm90;
#endif
  if (kind == Kind::kInt8) return nullptr;
#ifdef VK_GEMM_SM100
  if (capability >= 100 && capability < 120 && HasBlackwellCode(capability)) return &RunSm100;
#endif
#ifdef VK_GEMM_SM120
  if (capability >= 120 && capability < 130 && HasWorkstationCode(capability)) return &RunSm120;
#endif
  return nullptr;
}

}  // namespace

bool Serves(Kind kind, int64_t capability) { return Find(kind, capability) != nullptr; }

void Run(const Problem& p) {
  const Kind kind = KindOf(p);
  if (Runner* run = Find(kind, p.capability)) return run(kind, p);
  Fail(VK_UNSUPPORTED,
       "%s: this library (%s) has no kernel of %s for GPUs of %d.%d; FP8 takes 8.9 or newer, by "
       "blocks 9.0, INT8 7.5 to 9.0",
       p.op, VK_CUDA_ARCHS, Words(kind), p.capability / 10, p.capability % 10);
}

}  // namespace vk::cuda::gemm
