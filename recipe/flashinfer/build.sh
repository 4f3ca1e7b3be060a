#!/usr/bin/env bash
# Compiles FlashInfer's modules VLLM_FLASHINFER_MODULES, and says where they are.
set -euo pipefail

# Jobs and compiler cache of this machine; absent in a feedstock.
if [[ -n "${VLLM_CONDA_BUILD_SETTINGS:-}" && -f "${VLLM_CONDA_BUILD_SETTINGS}" ]]; then
  # shellcheck source=/dev/null
  source "${VLLM_CONDA_BUILD_SETTINGS}"
fi

# No path of the build machine.
prefix_maps="-ffile-prefix-map=${PREFIX}=/usr/local -ffile-prefix-map=${BUILD_PREFIX}=/usr/local"
export CXXFLAGS="${CXXFLAGS:-} ${VLLM_FLASHINFER_HARDENING} ${prefix_maps}"
export LDFLAGS="${LDFLAGS:-} ${VLLM_FLASHINFER_HARDENING_LINK}"
export CUDA_HOME="${BUILD_PREFIX}"

read -ra modules <<< "${VLLM_FLASHINFER_MODULES}"
# conda-forge's package of cuRAND's headers has them in the first, the registry's wheel in the second.
places=()
for place in "${PREFIX}"/targets/*/include "${SP_DIR}"/nvidia/*/include; do
  places+=(--include "${place}")
done
python compile_modules.py --wheel flashinfer_python-*.whl --work work \
  --output "${PREFIX}/lib/vllm_flashinfer" --arch "${VLLM_FLASHINFER_ARCH}" \
  "${places[@]}" "${modules[@]}"
cp work/source/flashinfer_python-*.dist-info/licenses/LICENSE .

# FlashInfer looks for a module of this name, the engine for its distribution, of FlashInfer's version.
mkdir "${SP_DIR}/flashinfer_jit_cache"
cp jit_cache.py "${SP_DIR}/flashinfer_jit_cache/__init__.py"
about="${SP_DIR}/flashinfer_jit_cache-${VLLM_FLASHINFER_VERSION}.dist-info"
mkdir "${about}"
cat > "${about}/METADATA" << END
Metadata-Version: 2.4
Name: flashinfer-jit-cache
Version: ${VLLM_FLASHINFER_VERSION}
Summary: FlashInfer's modules, compiled ahead of time
END
echo conda > "${about}/INSTALLER"
