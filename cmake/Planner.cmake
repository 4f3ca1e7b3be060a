# The planner that decides what is compiled for which GPUs (src/vllm_cuda_plan).

if(VLLM_PYTHON_EXECUTABLE)
  set(vllm_planner_python ${VLLM_PYTHON_EXECUTABLE})
elseif(Python_EXECUTABLE)
  set(vllm_planner_python ${Python_EXECUTABLE})
elseif(CMAKE_CROSSCOMPILING)
  # The one in CMAKE_PREFIX_PATH is the other platform's.
  find_program(vllm_planner_python NAMES python3 python REQUIRED
               NO_CMAKE_PATH NO_CMAKE_ENVIRONMENT_PATH)
else()
  find_program(vllm_planner_python NAMES python3 python REQUIRED)
endif()
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
             ${PROJECT_SOURCE_DIR}/src/vllm_cuda_plan/table.json)

# vllm_plan(OUT MODULE [ARGUMENT]...): what the planner prints. Its refusal ends the configuring. No
# argument may be empty: CMake would drop it.
function(vllm_plan out module)
  execute_process(
    COMMAND ${CMAKE_COMMAND} -E env PYTHONPATH=${PROJECT_SOURCE_DIR}/src PYTHONDONTWRITEBYTECODE=1
            ${vllm_planner_python} -m ${module} ${ARGN}
    RESULT_VARIABLE result
    OUTPUT_VARIABLE table OUTPUT_STRIP_TRAILING_WHITESPACE
    ERROR_VARIABLE error ERROR_STRIP_TRAILING_WHITESPACE)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "vllm-kernels: ${error}")
  endif()
  set(${out} "${table}" PARENT_SCOPE)
endfunction()
