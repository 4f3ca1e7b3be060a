# PyTorch's stable-ABI headers and libtorch.so, found without importing torch: an import takes
# seconds and cannot work when cross compiling.

set(torch_python "${VLLM_PYTHON_EXECUTABLE}")
if(NOT torch_python AND SKBUILD)
  set(torch_python "${Python_EXECUTABLE}")
endif()
# pip's build isolation uses PYTHONPATH to hide the environment that it installs into; -E ignores
# PYTHONPATH. The bindings are compiled against the stable ABI, so that environment's PyTorch is the
# one to use, and the build downloads no second one of several gigabytes.
foreach(flag "" -E)
  if(torch_python AND NOT torch_package)
    execute_process(
      COMMAND ${torch_python} ${flag} -c
              "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
      OUTPUT_VARIABLE torch_package OUTPUT_STRIP_TRAILING_WHITESPACE
      RESULT_VARIABLE torch_result ERROR_QUIET)
    if(NOT torch_result EQUAL 0)
      message(FATAL_ERROR "vllm-kernels: VLLM_PYTHON_EXECUTABLE=${torch_python} does not run")
    endif()
  endif()
endforeach()
find_path(TORCH_INCLUDE_DIR torch/csrc/stable/library.h HINTS ${torch_package}/include)
find_library(TORCH_LIBRARY torch HINTS ${torch_package}/lib)
get_filename_component(torch_libraries "${TORCH_LIBRARY}" DIRECTORY)
find_library(TORCH_CPU_LIBRARY torch_cpu HINTS ${torch_libraries} NO_DEFAULT_PATH)
if(NOT TORCH_INCLUDE_DIR OR NOT TORCH_LIBRARY)
  message(FATAL_ERROR "vllm-kernels: PyTorch ${VLLM_TORCH_TARGET} or newer is missing (looked for "
                      "torch/csrc/stable/library.h and libtorch.so); run `pip install torch` first, or "
                      "set VLLM_PYTHON_EXECUTABLE to a Python that has it")
endif()
file(STRINGS ${TORCH_INCLUDE_DIR}/torch/headeronly/version.h torch_version
     REGEX "#define TORCH_VERSION_(MAJOR|MINOR) ")
string(REGEX REPLACE ".*MAJOR ([0-9]+).*MINOR ([0-9]+).*" "\\1.\\2" torch_version "${torch_version}")
if(torch_version VERSION_LESS VLLM_TORCH_TARGET)
  message(FATAL_ERROR "vllm-kernels: PyTorch ${torch_version} is too old; the kernels target the "
                      "stable ABI of ${VLLM_TORCH_TARGET}")
endif()
message(STATUS "vllm-kernels: PyTorch ${torch_version} headers, stable ABI ${VLLM_TORCH_TARGET}")

string(REPLACE "." ";" torch_target_parts ${VLLM_TORCH_TARGET})
list(GET torch_target_parts 0 torch_target_major)
list(GET torch_target_parts 1 torch_target_minor)
math(EXPR torch_target_value "(${torch_target_major} << 56) | (${torch_target_minor} << 48)"
     OUTPUT_FORMAT HEXADECIMAL)

add_library(vllm_torch INTERFACE)
target_include_directories(vllm_torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIR})
# Its headers' inline functions name their files in messages.
target_compile_options(vllm_torch INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX,HIP>:-ffile-prefix-map=${TORCH_INCLUDE_DIR}=include>")
target_compile_definitions(vllm_torch INTERFACE TORCH_TARGET_VERSION=${torch_target_value})
target_compile_features(vllm_torch INTERFACE cxx_std_20)
# The symbols are in libtorch_cpu.so, which libtorch.so loads. Linking only libtorch.so lets one
# binary serve CPU and CUDA builds of PyTorch.
target_link_options(vllm_torch INTERFACE -Wl,--no-as-needed -Wl,--allow-shlib-undefined)
target_link_libraries(vllm_torch INTERFACE ${TORCH_LIBRARY})

# What every library of bindings has beside the bindings themselves.
set(VLLM_BINDING_SOURCES registry.cc arguments.cc results.cc)
list(TRANSFORM VLLM_BINDING_SOURCES PREPEND ${PROJECT_SOURCE_DIR}/csrc/torch/)
