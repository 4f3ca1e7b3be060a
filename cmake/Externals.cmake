# Third-party libraries: found, never downloaded.

find_package(OpenMP REQUIRED COMPONENTS CXX)

# scikit-build-core passes site-packages folders; wheels such as oneDNN's put headers and libraries
# into the prefix above them.
foreach(folder IN LISTS CMAKE_PREFIX_PATH)
  if(folder MATCHES "^(.+)/lib(64)?/python[0-9.]+/site-packages$")
    list(APPEND CMAKE_PREFIX_PATH ${CMAKE_MATCH_1})
  endif()
endforeach()

# Highway is used header-only: the tier's flags choose the target at compile time.
find_path(HIGHWAY_INCLUDE_DIR hwy/highway.h PATHS ENV CPATH ENV CPLUS_INCLUDE_PATH)
if(NOT HIGHWAY_INCLUDE_DIR)
  message(FATAL_ERROR "vllm-kernels: Highway's headers (hwy/highway.h) are missing; install "
                      "libhwy (conda) or libhwy-dev >= 1.2 (Debian 13, Ubuntu 25.04), or set "
                      "CMAKE_PREFIX_PATH to the prefix that holds include/hwy")
endif()
file(STRINGS ${HIGHWAY_INCLUDE_DIR}/hwy/base.h highway_version REGEX "#define HWY_(MAJOR|MINOR) ")
string(REGEX REPLACE ".*HWY_MAJOR ([0-9]+).*HWY_MINOR ([0-9]+).*" "\\1.\\2" highway_version
                     "${highway_version}")
if(highway_version VERSION_LESS 1.2)
  message(FATAL_ERROR "vllm-kernels: Highway ${highway_version} in ${HIGHWAY_INCLUDE_DIR} is too "
                      "old; 1.2 or newer is needed")
endif()

# vllm_find_onednn(): sets VLLM_ONEDNN_FOUND and makes the target vllm_onednn, empty where it is not
# used. AUTO means: required where targets.toml says so, on x86-64, whose tiers were measured with it.
# Elsewhere its generic builds have nothing for our packed weights: our own kernels multiply everything.
function(vllm_find_onednn)
  add_library(vllm_onednn INTERFACE)
  set(wanted ${VLLM_CPU_ONEDNN})
  if(wanted STREQUAL "AUTO")
    set(wanted ${VLLM_PLATFORM_ONEDNN})
  endif()
  set(VLLM_ONEDNN_FOUND ${wanted} PARENT_SCOPE)
  if(NOT wanted)
    message(STATUS "vllm-kernels: matrix products by our own kernels alone "
                   "(VLLM_CPU_ONEDNN=${VLLM_CPU_ONEDNN})")
    return()
  endif()
  find_path(ONEDNN_INCLUDE_DIR oneapi/dnnl/dnnl.hpp)
  find_library(ONEDNN_LIBRARY NAMES dnnl libdnnl.so.3)
  if(NOT ONEDNN_INCLUDE_DIR OR NOT ONEDNN_LIBRARY)
    message(FATAL_ERROR "vllm-kernels: oneDNN 3 (dnnl.hpp and libdnnl.so.3) is missing; install "
                        "onednn (conda), onednn-devel-cpu-gomp (pip) or libdnnl-dev >= 3 (Debian), "
                        "or set CMAKE_PREFIX_PATH to the prefix that holds it; VLLM_CPU_ONEDNN=OFF "
                        "does without")
  endif()
  message(STATUS "vllm-kernels: matrix products by our own kernels and oneDNN (${ONEDNN_LIBRARY})")
  target_include_directories(vllm_onednn SYSTEM INTERFACE ${ONEDNN_INCLUDE_DIR})
  target_link_libraries(vllm_onednn INTERFACE ${ONEDNN_LIBRARY})
endfunction()
vllm_find_onednn()
