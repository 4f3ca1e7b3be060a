# Flags that all of our own C++ shares.

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "Release or RelWithDebInfo" FORCE)
endif()

# The libtorch headers are C++20, which older compilers support only in part. Newer tiers need newer
# compilers: a tier whose flags the compiler rejects is left out (cmake/Tiers.cmake).
set(vllm_oldest_GNU 11)
set(vllm_oldest_Clang 14)
if(DEFINED vllm_oldest_${CMAKE_CXX_COMPILER_ID}
   AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS vllm_oldest_${CMAKE_CXX_COMPILER_ID})
  message(FATAL_ERROR "vllm-kernels: compiler ${CMAKE_CXX_COMPILER_ID} "
                      "${CMAKE_CXX_COMPILER_VERSION} is too old; "
                      "${vllm_oldest_${CMAKE_CXX_COMPILER_ID}} or newer is needed, set CXX to it")
endif()

set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)

add_library(vllm_compile INTERFACE)
target_include_directories(vllm_compile INTERFACE ${PROJECT_SOURCE_DIR}/csrc)
target_compile_options(vllm_compile INTERFACE
  -Wall -Wextra
  # No path of the build machine inside the binaries: reproducible, and cacheable across folders.
  -ffile-prefix-map=${PROJECT_SOURCE_DIR}=. -ffile-prefix-map=${PROJECT_BINARY_DIR}=build
  $<$<STREQUAL:${VLLM_WARNINGS_AS_ERRORS},ON>:-Werror>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(vllm_compile INTERFACE
    "$<$<COMPILE_LANGUAGE:CXX>:${VLLM_PLATFORM_GCC_OPTIONS}>")
endif()
# Kernels compute by IEEE 754, but need neither errno nor traps.
target_compile_options(vllm_compile INTERFACE -fno-math-errno -fno-trapping-math)

# Buffers of known size are checked when they are written, and the CPU checks where calls, jumps and
# returns go. CMake does not read CPPFLAGS, where conda's compilers have the first of these.
set(vllm_hardening ${VLLM_PLATFORM_HARDENING})
if(NOT VLLM_SANITIZE STREQUAL "ON" AND NOT CMAKE_BUILD_TYPE STREQUAL "Debug")
  list(APPEND vllm_hardening -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
endif()
target_compile_options(vllm_compile INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${vllm_hardening}>")
target_link_options(vllm_compile INTERFACE ${VLLM_PLATFORM_HARDENING_LINK})
if(VLLM_SANITIZE STREQUAL "ON")
  target_compile_options(vllm_compile INTERFACE
    -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  target_link_options(vllm_compile INTERFACE -fsanitize=address,undefined)
endif()

# vllm_link_complete(TARGET): a symbol that is defined nowhere is an error of the linker, not of the
# first import. Clang leaves the sanitizers' library to the executable.
function(vllm_link_complete target)
  if(NOT VLLM_SANITIZE STREQUAL "ON")
    target_link_options(${target} PRIVATE LINKER:-z,defs)
  endif()
endfunction()
