# GCC for RISC-V without an operating system. EE_ARCH and EE_ABI name the core.
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR riscv32)
set(EE_ARCH "rv32imac" CACHE STRING "the instruction set to compile for")
set(EE_ABI "ilp32" CACHE STRING "its calling convention")
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES EE_ARCH EE_ABI)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)

set(CMAKE_C_COMPILER riscv64-unknown-elf-gcc)
set(CMAKE_AR riscv64-unknown-elf-ar)
set(CMAKE_RANLIB riscv64-unknown-elf-ranlib)
set(CMAKE_C_FLAGS_INIT "-march=${EE_ARCH} -mabi=${EE_ABI} --specs=picolibc.specs")
# Picolibc's own start-up, with its input and output over semihosting.
set(CMAKE_EXE_LINKER_FLAGS_INIT "--oslib=semihost --crt0=hosted")
