"""Layouts of exported projects: one function for each build system.

Templates lie in ``runtime/ports``; ``@NAME@`` in them is replaced. Each function returns path ->
content. ``README.md`` of a project says how to build it and what to copy.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeexit.exporting.parts import Parts
from edgeexit.resources import resource_folder


def cmake(parts: Parts) -> dict[str, bytes]:
    """A CMake project: a static library, an example, and toolchain files."""
    return {
        **_tree(parts),
        **_below("example", parts.example),
        "CMakeLists.txt": _fill("cmake/CMakeLists.txt", _values(parts, "    ")),
        "cmake/arm-none-eabi.cmake": _fill("cmake/arm-none-eabi.cmake", {}),
        "cmake/riscv64-unknown-elf.cmake": _fill("cmake/riscv64-unknown-elf.cmake", {}),
    }


def zephyr(parts: Parts) -> dict[str, bytes]:
    """A Zephyr module with a sample application."""
    values = _values(parts, "        ")
    values["MIN_RAM_KIB"] = str((parts.arena_bytes + 16_384) // 1024)
    sample = "samples/classify"
    return {
        **_tree(parts),
        "zephyr/module.yml": _fill("zephyr/module.yml", values),
        "Kconfig": _fill("zephyr/Kconfig", values),
        "CMakeLists.txt": _fill("zephyr/CMakeLists.txt", values),
        f"{sample}/CMakeLists.txt": _fill("zephyr/sample_CMakeLists.txt", values),
        f"{sample}/prj.conf": _fill("zephyr/prj.conf", values),
        f"{sample}/sample.yaml": _fill("zephyr/sample.yaml", values),
        **_below(f"{sample}/src", parts.example),
    }


def arduino(parts: Parts) -> dict[str, bytes]:
    """An Arduino library; the IDE compiles all below ``src``, with that folder as include path."""
    example = {name: text for name, text in parts.example.items() if name != "main.c"}
    # The IDE knows one include folder: all headers lie where sources of any depth find them.
    flat = {path.rpartition("/")[2]: text for path, text in parts.cmsis_nn.items()}
    return {
        "library.properties": _fill("arduino/library.properties", _values(parts, "")),
        **_below("src", parts.headers),
        **_below("src", parts.private_headers),
        **_below("src", parts.sources),
        **_below("src", {n: text for n, text in flat.items() if n.endswith((".c", ".h"))}),
        **_below("licenses", {n: t for n, t in flat.items() if not n.endswith((".c", ".h"))}),
        **_below("examples/Classify", example),
        "examples/Classify/Classify.ino": _fill("arduino/Classify.ino", {}),
        "README.md": _readme(parts, "Copy this folder into the `libraries` folder of your sketch "
                             "book, then open the example `Classify`."),
    }  # fmt: skip


def esp_idf(parts: Parts) -> dict[str, bytes]:
    """An ESP-IDF project whose component holds the model."""
    component = f"components/{parts.project}_model"
    values = _values(parts, "        ")
    example = {name: text for name, text in parts.example.items() if name != "main.c"}
    tree = _tree(parts)
    readme = tree.pop("README.md")
    return {
        "README.md": readme,
        **_below(component, tree),
        f"{component}/CMakeLists.txt": _fill("esp_idf/component_CMakeLists.txt", values),
        f"{component}/idf_component.yml": _fill("esp_idf/idf_component.yml", values),
        "CMakeLists.txt": _fill("esp_idf/CMakeLists.txt", values),
        "main/CMakeLists.txt": _fill("esp_idf/main_CMakeLists.txt", values),
        "main/main.c": _fill("esp_idf/main.c", {}),
        **_below("main", example),
    }


def cmsis(parts: Parts) -> dict[str, bytes]:
    """A CMSIS-Pack's folder, and the same as a layer of a csolution project."""
    headers = [f"include/{name}" for name in parts.headers]
    headers += [f"src/{name}" for name in parts.private_headers]
    headers += [f"cmsis_nn/{name}" for name in parts.cmsis_nn if name.endswith(".h")]
    folders = ["include/", "src/", *(f"{folder}/" for folder in _private_includes(parts))]
    rows = [f'<file category="include" name="{folder}"/>' for folder in folders]
    rows += [f'<file category="header" name="{path}"/>' for path in headers]
    rows += [f'<file category="sourceC" name="{path}"/>' for path in _source_paths(parts)]
    rows.append('<file category="doc" name="README.md"/>')
    values = _values(parts, "")
    values["FILES"] = "\n".join(f"        {row}" for row in rows)
    values["FILES_YML"] = "\n".join(f"        - file: {path}" for path in _source_paths(parts))
    values["PRIVATE_PATHS"] = "".join(f"\n    - {f}" for f in _private_includes(parts))
    tree = _tree(parts)
    return {
        **tree,
        "LICENSE": _license(),
        f"edgeexit.{parts.project}.pdsc": _fill("cmsis/pack.pdsc", values),
        f"{parts.project}.clayer.yml": _fill("cmsis/model.clayer.yml", values),
        **_below("example", parts.example),
    }


def _tree(parts: Parts) -> dict[str, bytes]:
    """Model, runtime and kernels, in the layout that most formats share."""
    return {
        **_below("include", parts.headers),
        **_below("src", parts.sources),
        **_below("src", parts.private_headers),
        **_below("cmsis_nn", parts.cmsis_nn),
        "README.md": _readme(parts, "The build file beside this text names all sources and include "
                             "folders, and its first lines say how to build."),
    }  # fmt: skip


def _source_paths(parts: Parts) -> list[str]:
    paths = [f"src/{name}" for name in parts.sources]
    return paths + [f"cmsis_nn/{name}" for name in parts.cmsis_nn if name.endswith(".c")]


def _private_includes(parts: Parts) -> list[str]:
    return ["cmsis_nn/include"] if parts.cmsis_nn else []


def _values(parts: Parts, indent: str) -> dict[str, str]:
    return {
        "PROJECT": parts.project,
        "PROJECT_UPPER": parts.project.upper(),
        "ARENA_BYTES": str(parts.arena_bytes),
        "SOURCES": "\n".join(indent + path for path in _source_paths(parts)),
        "PRIVATE_INCLUDES": "".join(f" {folder}" for folder in _private_includes(parts)),
    }


def _fill(template: str, values: Mapping[str, str]) -> bytes:
    text = (resource_folder("runtime") / "ports" / template).read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text.encode()


def _below(folder: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": content for name, content in files.items()}


def _readme(parts: Parts, how: str) -> bytes:
    return f"""# {parts.project}

A network with early exits as C11: no heap, no files, no globals that change. {how}

    #include "edgeexit.h"
    #include "ee_model.h"

`include/edgeexit.h` documents every call, its errors and its memory rules. The model wants an arena
of {parts.arena_bytes:,} bytes at a multiple of 16, and input as int8 (`ee_input`); the first lines
of `ee_model.h` say how raw samples become that. The example runs a few samples that came with the
model and compares the answers with those of the compiler's reference: let it print "all as
expected" on your board once.
""".encode()


def _license() -> bytes:
    """The licence of the runtime's sources, in short; an installed package carries the whole."""
    return (
        b"The runtime (files that begin with ee_, but for ee_model.*) is edgeexit's, under\n"
        b"Apache-2.0: https://www.apache.org/licenses/LICENSE-2.0\n"
        b"Weights and thresholds in ee_model.c are the model's, under its own licence.\n"
    )
