# Where files are installed. conda: lib/vllm_kernels/, beside the prefix's own libraries; wheel:
# inside the Python package. RPATHs are relative in both.

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

# vllm_write_dist_info(OUT_DIR): the dist-info lets pip list the package, tells the package its
# version and requirements, and the engine its plugin. RECORD lists the files without hashes, which
# conda has in its own list; INSTALLER keeps pip from removing them.
function(vllm_write_dist_info out_dir)
  set(dir ${PROJECT_BINARY_DIR}/vllm_kernels-${PROJECT_VERSION}.dist-info)
  file(CONFIGURE OUTPUT ${dir}/METADATA @ONLY CONTENT "\
Metadata-Version: 2.4
Name: vllm-kernels
Version: @PROJECT_VERSION@
Summary: @PROJECT_DESCRIPTION@
License-Expression: Apache-2.0
Requires-Python: >=@VLLM_PYTHON_MIN@
Requires-Dist: torch>=@VLLM_TORCH_TARGET@
")
  file(WRITE ${dir}/INSTALLER "conda\n")
  file(WRITE ${dir}/entry_points.txt "${VLLM_ENTRY_POINTS}")
  set(source ${PROJECT_SOURCE_DIR}/src)
  file(GLOB_RECURSE names RELATIVE ${source} ${source}/vllm_kernels/*
       ${source}/vllm_kernels_plugin/*)
  list(FILTER names EXCLUDE REGEX "__pycache__|[.]pyc$")
  get_filename_component(info ${dir} NAME)
  list(APPEND names ${info}/METADATA ${info}/INSTALLER ${info}/entry_points.txt ${info}/RECORD)
  list(SORT names)
  list(JOIN names ",,\n" record)
  file(WRITE ${dir}/RECORD "${record},,\n")
  set(${out_dir} ${dir} PARENT_SCOPE)
endfunction()

# vllm_install_python(COMPONENT): installs the Python package. In a wheel, scikit-build-core does it.
function(vllm_install_python component)
  if(VLLM_INSTALL_LAYOUT STREQUAL "conda")
    foreach(package vllm_kernels vllm_kernels_plugin)
      install(DIRECTORY ${PROJECT_SOURCE_DIR}/src/${package} DESTINATION ${VLLM_PYTHON_SITE}
              COMPONENT ${component} PATTERN __pycache__ EXCLUDE PATTERN "*.pyc" EXCLUDE)
    endforeach()
    vllm_write_dist_info(dist_info)
    install(DIRECTORY ${dist_info} DESTINATION ${VLLM_PYTHON_SITE} COMPONENT ${component})
  endif()
endfunction()
