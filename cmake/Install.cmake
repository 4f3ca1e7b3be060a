# Where things go. conda: lib/vllm_kernels/ beside the libraries that the prefix owns; wheel: inside
# the Python package. RPATHs are relative in both.

if(VLLM_INSTALL_LAYOUT STREQUAL "conda")
  if(NOT VLLM_PYTHON_SITE AND VLLM_COMPONENTS MATCHES "^(all|core)$")
    message(FATAL_ERROR "vllm-kernels: VLLM_INSTALL_LAYOUT=conda needs VLLM_PYTHON_SITE, the "
                        "site-packages folder")
  endif()
  set(vllm_library_dir lib/vllm_kernels)
  set(vllm_rpath "$ORIGIN:$ORIGIN/..")
else()
  set(vllm_library_dir vllm_kernels/lib)
  # site-packages/vllm_kernels/lib: PyTorch's own libraries, and those that wheels put into lib/.
  set(vllm_rpath "$ORIGIN:$ORIGIN/../../torch/lib:$ORIGIN/../../../..")
endif()
set(CMAKE_INSTALL_RPATH_USE_LINK_PATH OFF)

# vllm_install_library(TARGET COMPONENT): installs a shared library with the layout's RPATH.
function(vllm_install_library target component)
  set_target_properties(${target} PROPERTIES
    INSTALL_RPATH "${vllm_rpath}"
    BUILD_RPATH_USE_ORIGIN ON
    LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib)
  install(TARGETS ${target} LIBRARY DESTINATION ${vllm_library_dir} COMPONENT ${component})
endfunction()

# vllm_install_python(COMPONENT): installs the Python package. In a wheel, scikit-build-core does it.
function(vllm_install_python component)
  if(VLLM_INSTALL_LAYOUT STREQUAL "conda")
    install(DIRECTORY ${PROJECT_SOURCE_DIR}/src/vllm_kernels DESTINATION ${VLLM_PYTHON_SITE}
            COMPONENT ${component} PATTERN __pycache__ EXCLUDE PATTERN "*.pyc" EXCLUDE)
  endif()
endfunction()
