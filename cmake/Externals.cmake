# Libraries of others: found, never downloaded.

find_package(OpenMP REQUIRED COMPONENTS CXX)

# Highway is used header-only: the tier's flags choose the target at compile time.
find_path(HIGHWAY_INCLUDE_DIR hwy/highway.h)
if(NOT HIGHWAY_INCLUDE_DIR)
  message(FATAL_ERROR "vllm-kernels: Highway's headers (hwy/highway.h) are missing; install "
                      "libhwy (conda) or libhwy-dev >= 1.2 (Debian), or set HIGHWAY_INCLUDE_DIR")
endif()
file(STRINGS ${HIGHWAY_INCLUDE_DIR}/hwy/base.h highway_version REGEX "#define HWY_(MAJOR|MINOR) ")
string(REGEX REPLACE ".*HWY_MAJOR ([0-9]+).*HWY_MINOR ([0-9]+).*" "\\1.\\2" highway_version
                     "${highway_version}")
if(highway_version VERSION_LESS 1.2)
  message(FATAL_ERROR "vllm-kernels: Highway ${highway_version} in ${HIGHWAY_INCLUDE_DIR} is too "
                      "old; 1.2 or newer is needed")
endif()

find_path(ONEDNN_INCLUDE_DIR oneapi/dnnl/dnnl.hpp)
find_library(ONEDNN_LIBRARY NAMES dnnl libdnnl.so.3)
if(NOT ONEDNN_INCLUDE_DIR OR NOT ONEDNN_LIBRARY)
  message(FATAL_ERROR "vllm-kernels: oneDNN 3 (dnnl.hpp and libdnnl.so.3) is missing; install "
                      "onednn (conda) or libdnnl-dev >= 3 (Debian), or set ONEDNN_INCLUDE_DIR and "
                      "ONEDNN_LIBRARY")
endif()
add_library(vllm_onednn INTERFACE)
target_include_directories(vllm_onednn SYSTEM INTERFACE ${ONEDNN_INCLUDE_DIR})
target_link_libraries(vllm_onednn INTERFACE ${ONEDNN_LIBRARY})
