"""The numbers of TFLite's schema (version 3): field slots, op codes, types and options.

A slot is the position of a field in its table, in the order of the schema. The tests hold every
number here equal to the classes generated from the schema, which `ai-edge-litert` ships; the
package itself does not need them, and they would not check what they read.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3


class Model:
    """Slots of the root table."""

    VERSION, OPERATOR_CODES, SUBGRAPHS, DESCRIPTION, BUFFERS = range(5)


class OperatorCode:
    """Slots."""

    DEPRECATED_BUILTIN_CODE, CUSTOM_CODE, VERSION, BUILTIN_CODE = range(4)


class SubGraph:
    """Slots."""

    TENSORS, INPUTS, OUTPUTS, OPERATORS = range(4)


class Tensor:
    """Slots."""

    SHAPE, TYPE, BUFFER, NAME, QUANTIZATION, IS_VARIABLE, SPARSITY = range(7)
    EXTERNAL_BUFFER = 10


class Quantization:
    """Slots of the table QuantizationParameters."""

    SCALE, ZERO_POINT, DETAILS_TYPE = 2, 3, 4
    QUANTIZED_DIMENSION = 6


class Buffer:
    """Slots."""

    DATA, OFFSET, SIZE = range(3)


class Operator:
    """Slots. A union takes two: its type, then the table."""

    OPCODE_INDEX, INPUTS, OUTPUTS, OPTIONS_TYPE, OPTIONS = range(5)


# TensorType -> dtype, where numpy has one.
DTYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype("<f4"),
    1: np.dtype("<f2"),
    2: np.dtype("<i4"),
    3: np.dtype("u1"),
    4: np.dtype("<i8"),
    6: np.dtype("?"),
    7: np.dtype("<i2"),
    9: np.dtype("i1"),
    10: np.dtype("<f8"),
    12: np.dtype("<u8"),
    15: np.dtype("<u4"),
    16: np.dtype("<u2"),
}


class Field(NamedTuple):
    """A scalar of an options table; ``kind`` is int8, int32, bool or float32."""

    slot: int
    kind: str
    default: int | float = 0


class Options(NamedTuple):
    """An options table: its number in the union, and the scalars that are read."""

    number: int
    table: str
    fields: dict[str, Field]


PADDING_SAME, PADDING_VALID = 0, 1
ACTIVATION_NONE, ACTIVATION_RELU, ACTIVATION_RELU_N1_TO_1, ACTIVATION_RELU6 = range(4)

_WINDOW = {
    "padding": Field(0, "int8"),
    "stride_w": Field(1, "int32"),
    "stride_h": Field(2, "int32"),
}
_POOL = Options(
    5,
    "Pool2DOptions",
    _WINDOW
    | {
        "filter_width": Field(3, "int32"),
        "filter_height": Field(4, "int32"),
        "fused_activation_function": Field(5, "int8"),
    },
)
_ACTIVATION = {"fused_activation_function": Field(0, "int8")}

# The kinds whose options are read. Kinds without an entry have none that matter.
OPTIONS: dict[str, Options] = {
    "ADD": Options(11, "AddOptions", _ACTIVATION),
    "AVERAGE_POOL_2D": _POOL,
    "BATCH_MATMUL": Options(
        101, "BatchMatMulOptions", {"adj_x": Field(0, "bool"), "adj_y": Field(1, "bool")}
    ),
    "CONCATENATION": Options(
        10,
        "ConcatenationOptions",
        {"axis": Field(0, "int32"), "fused_activation_function": Field(1, "int8")},
    ),
    "CONV_2D": Options(
        1,
        "Conv2DOptions",
        _WINDOW
        | {
            "fused_activation_function": Field(3, "int8"),
            "dilation_w_factor": Field(4, "int32", 1),
            "dilation_h_factor": Field(5, "int32", 1),
        },
    ),
    "DEPTHWISE_CONV_2D": Options(
        2,
        "DepthwiseConv2DOptions",
        _WINDOW
        | {
            "depth_multiplier": Field(3, "int32"),
            "fused_activation_function": Field(4, "int8"),
            "dilation_w_factor": Field(5, "int32", 1),
            "dilation_h_factor": Field(6, "int32", 1),
        },
    ),
    "FULLY_CONNECTED": Options(
        8,
        "FullyConnectedOptions",
        _ACTIVATION | {"weights_format": Field(1, "int8"), "keep_num_dims": Field(2, "bool")},
    ),
    "GELU": Options(116, "GeluOptions", {"approximate": Field(0, "bool")}),
    "MAX_POOL_2D": _POOL,
    "MEAN": Options(27, "ReducerOptions", {"keep_dims": Field(0, "bool")}),
    "MUL": Options(21, "MulOptions", _ACTIVATION),
    "PACK": Options(
        59, "PackOptions", {"values_count": Field(0, "int32"), "axis": Field(1, "int32")}
    ),
    "SOFTMAX": Options(9, "SoftmaxOptions", {"beta": Field(0, "float32", 0.0)}),
    "STRIDED_SLICE": Options(
        32,
        "StridedSliceOptions",
        {
            "begin_mask": Field(0, "int32"),
            "end_mask": Field(1, "int32"),
            "ellipsis_mask": Field(2, "int32"),
            "new_axis_mask": Field(3, "int32"),
            "shrink_axis_mask": Field(4, "int32"),
            "offset": Field(5, "bool"),
        },
    ),
    "SUB": Options(28, "SubOptions", _ACTIVATION),
}

_NAMES = """
ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE
EMBEDDING_LOOKUP FLOOR FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D
LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1
RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS SKIP_GRAM
CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND
SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE
BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM
CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE
SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW
ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK
REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR
LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS
WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE
NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM
BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG
REAL COMPLEX_ABS HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL
CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS RANDOM_STANDARD_NORMAL
BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU DYNAMIC_UPDATE_SLICE RELU_0_TO_1 UNSORTED_SEGMENT_PROD
UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2 UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR
RIGHT_SHIFT STABLEHLO_LOGISTIC STABLEHLO_ADD STABLEHLO_DIVIDE STABLEHLO_MULTIPLY
STABLEHLO_MAXIMUM STABLEHLO_RESHAPE STABLEHLO_CLAMP STABLEHLO_CONCATENATE
STABLEHLO_BROADCAST_IN_DIM STABLEHLO_CONVOLUTION STABLEHLO_SLICE STABLEHLO_CUSTOM_CALL
STABLEHLO_REDUCE STABLEHLO_ABS STABLEHLO_AND STABLEHLO_COSINE STABLEHLO_EXPONENTIAL
STABLEHLO_FLOOR STABLEHLO_LOG STABLEHLO_MINIMUM STABLEHLO_NEGATE STABLEHLO_OR STABLEHLO_POWER
STABLEHLO_REMAINDER STABLEHLO_RSQRT STABLEHLO_SELECT STABLEHLO_SUBTRACT STABLEHLO_TANH
STABLEHLO_SCATTER STABLEHLO_COMPARE STABLEHLO_CONVERT STABLEHLO_DYNAMIC_SLICE
STABLEHLO_DYNAMIC_UPDATE_SLICE STABLEHLO_PAD STABLEHLO_IOTA STABLEHLO_DOT_GENERAL
STABLEHLO_REDUCE_WINDOW STABLEHLO_SORT STABLEHLO_WHILE STABLEHLO_GATHER STABLEHLO_TRANSPOSE
DILATE STABLEHLO_RNG_BIT_GENERATOR REDUCE_WINDOW STABLEHLO_COMPOSITE STABLEHLO_SHIFT_LEFT
STABLEHLO_CBRT STABLEHLO_CASE
"""

# In the order of their codes.
OPERATOR_NAMES = tuple(_NAMES.split())
