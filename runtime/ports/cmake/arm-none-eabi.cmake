# GCC for Arm Cortex-M. EE_CPU names the core: cortex-m0plus, -m4, -m7, -m33, -m55, -m85.
# The example links with newlib's stubs; it prints nothing until your board has a _write.
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR arm)
set(EE_CPU "cortex-m4" CACHE STRING "the core to compile for")
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES EE_CPU)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)

set(CMAKE_C_COMPILER arm-none-eabi-gcc)
set(CMAKE_AR arm-none-eabi-ar)
set(CMAKE_RANLIB arm-none-eabi-ranlib)

set(ee_float "")
if(EE_CPU STREQUAL "cortex-m4")
    set(ee_float "-mfloat-abi=hard -mfpu=fpv4-sp-d16")
elseif(EE_CPU STREQUAL "cortex-m7")
    set(ee_float "-mfloat-abi=hard -mfpu=fpv5-d16")
elseif(EE_CPU STREQUAL "cortex-m33")
    set(ee_float "-mfloat-abi=hard -mfpu=fpv5-sp-d16")
elseif(EE_CPU MATCHES "cortex-m(55|85)")
    set(ee_float "-mfloat-abi=hard")
endif()
set(CMAKE_C_FLAGS_INIT "-mcpu=${EE_CPU} -mthumb ${ee_float}")
set(CMAKE_EXE_LINKER_FLAGS_INIT "--specs=nano.specs --specs=nosys.specs")
