#!/usr/bin/env bash
# Builds and installs one component (VLLM_COMPONENT: core, cpu, cuda, deepgemm, flashmla or rocm)
# into $PREFIX.
set -euo pipefail

# Jobs and compiler cache of this machine; absent in a feedstock.
if [[ -n "${VLLM_CONDA_BUILD_SETTINGS:-}" && -f "${VLLM_CONDA_BUILD_SETTINGS}" ]]; then
  # shellcheck source=/dev/null
  source "${VLLM_CONDA_BUILD_SETTINGS}"
fi

# Keeps paths of the build machine out of the binaries, and gives compiler-cache hits in any folder.
prefix_maps="-ffile-prefix-map=${SRC_DIR}=/usr/local/src/conda/vllm-kernels"
prefix_maps+=" -ffile-prefix-map=${PREFIX}=/usr/local"
if [[ -n "${BUILD_PREFIX:-}" ]]; then
  prefix_maps+=" -ffile-prefix-map=${BUILD_PREFIX}=/usr/local"
fi
# As ccache rewrites it, seen from the build folder.
prefix_maps+=" -ffile-prefix-map=../../${PREFIX##*/}=/usr/local"
export CXXFLAGS="${CXXFLAGS:-} ${prefix_maps}"
# CMake's variables for HIP: the environment's clang, with the flags of paths alone.
export HIPFLAGS="${HIPFLAGS:-} ${prefix_maps}"
if [[ "${VLLM_COMPONENT}" == rocm ]]; then
  export HIPCXX="${HIPCXX:-${BUILD_PREFIX}/bin/clang++}"
fi
# The linker would compute the build ID from what it links, including an RPATH with $PREFIX, which
# differs from folder to folder.
export LDFLAGS="${LDFLAGS:-} -Wl,--build-id=none"
# Paths below are rewritten relative to the working folder before ccache hashes them.
export CCACHE_BASEDIR="${SRC_DIR%/*}" CCACHE_NOHASHDIR=1

# core does not depend on the device; it is built as for the CPU.
case "${VLLM_COMPONENT}" in
  core | cpu) device=cpu ;;
  rocm) device=rocm ;;
  *) device=cuda ;;
esac

# The Python of another platform does not run here, and PyTorch's headers are found without it.
python="${PYTHON:-${PREFIX}/bin/python}"
if [[ "${CONDA_BUILD_CROSS_COMPILATION:-0}" == 1 ]]; then
  python=""
fi

# Split like a shell word list on purpose: conda's activation sets CMAKE_ARGS that way.
# shellcheck disable=SC2086
cmake -S . -B build -G Ninja ${CMAKE_ARGS:-} \
  -DCMAKE_INSTALL_PREFIX="${PREFIX}" \
  -DCMAKE_PREFIX_PATH="${PREFIX}" \
  -DVLLM_TARGET_DEVICE="${device}" \
  -DVLLM_COMPONENTS="${VLLM_COMPONENT}" \
  -DVLLM_CPU_LEVEL="${VLLM_CPU_LEVEL:-}" \
  -DVLLM_INSTALL_LAYOUT=conda \
  -DVLLM_PYTHON_EXECUTABLE="${python}" \
  -DVLLM_PYTHON_SITE="${SP_DIR:-}"
cmake --build build
cmake --install build --component "${VLLM_COMPONENT}" --strip
