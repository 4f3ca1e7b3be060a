# Sources made of templates: many instantiations, one file of kernels each.

# vllm_make_instance(TEMPLATE FILE [KEY VALUE]...): FILE is TEMPLATE with each @KEY@ replaced.
function(vllm_make_instance template file)
  set(words ${ARGN})
  while(words)
    list(POP_FRONT words key value)
    set(${key} "${value}")
  endwhile()
  configure_file(${template} ${file} @ONLY)
endfunction()
