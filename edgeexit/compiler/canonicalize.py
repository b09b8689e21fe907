"""Pass 2: leaves one spelling of everything that integer kernels compute.

Batch norms disappear (into the convolution or linear layer before them, or into a depthwise 1x1
convolution where there is none), numbers become constants, global pooling becomes a mean, attention
becomes its two products and their softmax, views become reshapes, and what does nothing at
inference goes. Results stay the same up to rounding.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from edgeexit.backends.integer_ops import (
    args_of,
    get_constant,
    pair,
    pool_arguments,
    shape_of,
    where_of,
)
from edgeexit.errors import ExportError
from edgeexit.types import ExportedGraph

_ATEN = torch.ops.aten
_BATCH_NORM = _ATEN._native_batch_norm_legit_no_training.default
_DOES_NOTHING = {
    _ATEN.clone.default,
    _ATEN.alias.default,
    _ATEN.detach.default,
    _ATEN.lift_fresh_copy.default,
    _ATEN.contiguous.default,
}
_VIEWS = {
    _ATEN.view.default,
    _ATEN._unsafe_view.default,
    _ATEN.reshape.default,
    _ATEN.flatten.using_ints,
    _ATEN.unsqueeze.default,
    _ATEN.squeeze.dim,
    _ATEN.squeeze.dims,
    _ATEN.squeeze.default,
}
_SCALAR_FORMS: dict[Any, Any] = {
    _ATEN.add.Scalar: _ATEN.add.Tensor,
    _ATEN.mul.Scalar: _ATEN.mul.Tensor,
    _ATEN.sub.Scalar: _ATEN.sub.Tensor,
    _ATEN.div.Scalar: _ATEN.div.Tensor,
}


def canonicalize(exported: ExportedGraph) -> ExportedGraph:
    """Rewrites the graph in place and returns it.

    Raises:
        ExportError: The network treats a batch as a whole, so that samples would mix, or does not
            answer with finite numbers.
    """
    editor = _Editor(exported.module)
    for rewrite in (
        _drop_what_does_nothing,
        _name_padding,  # first, so that the next rewrite sees every convolution
        _weights_of_its_own,
        _scalars_to_constants,
        _name_relu6,
        _split_hardsigmoid,
        _split_silu,
        _split_attention,
        _fold_batch_norm,
        _adaptive_pool_to_pool,
        _global_pool_to_mean,
        _padding_before_average,
        _transpose_to_permute,
        _drop_views_that_cancel,
        _reshapes_without_batch,
        _tokens_after_permute,
        _mean_without_kept_dims,
    ):
        for node in list(editor.module.graph.nodes):
            if node.op == "call_function":
                rewrite(editor, node)
        editor.module.graph.eliminate_dead_code()
    editor.module.graph.lint()
    editor.module.recompile()
    _check_samples_stay_apart(exported)
    return exported


class _Editor:
    """Adds constants and ops to a graph, with the metadata that later passes read."""

    def __init__(self, module: GraphModule) -> None:
        self.module = module
        self._num_constants = 0

    def value(self, node: object) -> Tensor:
        """The constant behind a ``get_attr`` node."""
        assert isinstance(node, Node)
        return get_constant(self.module, node)

    def constant(self, before: Node, value: Tensor) -> Node:
        """A new constant, available from ``before`` on."""
        name = f"_edgeexit_constant_{self._num_constants}"
        self._num_constants += 1
        self.module.register_buffer(name, value.detach().clone())
        with self.module.graph.inserting_before(before):
            node = self.module.graph.get_attr(name)
        node.meta["val"] = value
        return node

    def call(
        self, before: Node, target: Callable[..., Any], args: tuple[Any, ...], like: Node
    ) -> Node:
        """A new op that stands for (a part of) ``like``."""
        with self.module.graph.inserting_before(before):
            node = self.module.graph.call_function(target, args)
        node.meta = dict(like.meta)
        node.meta["val"] = target(
            *(arg.meta["val"] if isinstance(arg, Node) else arg for arg in args)
        )
        return node

    def replace(self, old: Node, new: Node) -> None:
        """Lets every user of ``old`` use ``new``."""
        old.replace_all_uses_with(new)
        self.module.graph.erase_node(old)


def _drop_what_does_nothing(editor: _Editor, node: Node) -> None:
    is_off = node.target is _ATEN.dropout.default and node.args[2] is False
    if is_off or node.target in _DOES_NOTHING:
        editor.replace(node, node.all_input_nodes[0])


def _weights_of_its_own(editor: _Editor, node: Node) -> None:
    """A layer that is applied twice becomes two: each is quantized for the values that it meets."""
    if node.target not in (_ATEN.conv2d.default, _ATEN.linear.default):
        return
    for constant in node.all_input_nodes[1:]:
        if constant.op == "get_attr" and len(constant.users) > 1:
            node.replace_input_with(constant, editor.constant(node, editor.value(constant)))


def _scalars_to_constants(editor: _Editor, node: Node) -> None:
    target = _SCALAR_FORMS.get(node.target, node.target)
    if target not in _SCALAR_FORMS.values() or node.kwargs:
        return
    node.target = target
    number = node.args[1]
    if target is _ATEN.div.Tensor and isinstance(number, int | float):
        node.target, number = _ATEN.mul.Tensor, 1.0 / number
        node.args = (node.args[0], number)
    if isinstance(number, int | float):
        node.args = (node.args[0], editor.constant(node, torch.tensor(float(number))))


def _name_relu6(editor: _Editor, node: Node) -> None:
    """``relu6`` and ``clamp(0, 6)`` in the words of ``nn.ReLU6``, and ``clamp(min=0)`` as ReLU."""
    bounds: tuple[object, ...] = ()
    if node.target is _ATEN.relu6.default:
        bounds = (0.0, 6.0)
    elif node.target in (_ATEN.clamp.default, _ATEN.clamp_min.default) and not node.kwargs:
        bounds = node.args[1:]
    if bounds == (0, 6):
        args = (node.args[0], 0.0, 6.0)
        editor.replace(node, editor.call(node, _ATEN.hardtanh.default, args, node))
    elif bounds in ((0,), (0, None)):
        editor.replace(node, editor.call(node, _ATEN.relu.default, (node.args[0],), node))


def _split_hardsigmoid(editor: _Editor, node: Node) -> None:
    """relu6(x + 3) / 6: no integer engine has the op itself."""
    if node.target is not _ATEN.hardsigmoid.default:
        return
    three = editor.constant(node, torch.tensor(3.0))
    sixth = editor.constant(node, torch.tensor(1.0 / 6.0))
    shifted = editor.call(node, _ATEN.add.Tensor, (node.args[0], three), node)
    clamped = editor.call(node, _ATEN.hardtanh.default, (shifted, 0.0, 6.0), node)
    editor.replace(node, editor.call(node, _ATEN.mul.Tensor, (clamped, sixth), node))


def _split_silu(editor: _Editor, node: Node) -> None:
    """The product of x and sigmoid(x): TFLite has no op for both."""
    if node.target is _ATEN.silu.default:
        gate = editor.call(node, _ATEN.sigmoid.default, node.args, node)
        editor.replace(node, editor.call(node, _ATEN.mul.Tensor, (node.args[0], gate), node))


def _split_attention(editor: _Editor, node: Node) -> None:
    """softmax(q k^T * scale) v, the factor on q, where it costs least."""
    if node.target is _ATEN.bmm.default:
        node.target = _ATEN.matmul.default
    if node.target is not _ATEN.scaled_dot_product_attention.default:
        return
    query, key, value, mask, rate, is_causal = _filled(node, 6, (None, 0.0, False))
    if mask is not None or rate or is_causal or node.kwargs.get("enable_gqa"):
        return  # the quantizer names the op as unsupported
    scale = node.kwargs.get("scale")
    if scale is None:
        scale = 1.0 / math.sqrt(shape_of(query)[-1])
    if scale != 1.0:
        factor = editor.constant(node, torch.tensor(float(scale)))  # type: ignore[arg-type]
        query = editor.call(node, _ATEN.mul.Tensor, (query, factor), query)
    turned = editor.call(node, _ATEN.transpose.int, (key, -2, -1), node)
    scores = editor.call(node, _ATEN.matmul.default, (query, turned), node)
    shares = editor.call(node, _ATEN.softmax.int, (scores, -1), node)
    editor.replace(node, editor.call(node, _ATEN.matmul.default, (shares, value), node))


def _name_padding(editor: _Editor, node: Node) -> None:
    """``padding="same"`` and ``"valid"`` of a convolution as numbers, where one number says it."""
    if node.target is not _ATEN.conv2d.padding:
        return
    x, weight, bias, stride, padding, dilation, groups = _filled(node, 7, (None, 1, "valid", 1, 1))
    kernel = editor.value(weight).shape[2:]
    spans = [d * (k - 1) for d, k in zip(pair(dilation), kernel, strict=True)]
    if padding == "same" and any(span % 2 for span in spans):
        return  # more on one side than on the other: the quantizer names the op as unsupported
    numbers = [span // 2 for span in spans] if padding == "same" else [0, 0]
    args = (x, weight, bias, list(pair(stride)), numbers, list(pair(dilation)), groups)
    editor.replace(node, editor.call(node, _ATEN.conv2d.default, args, node))


def _fold_batch_norm(editor: _Editor, node: Node) -> None:
    if node.target is not _BATCH_NORM:
        return
    taken = list(node.users)
    if any(user.target is not operator.getitem or user.args[1] != 0 for user in taken):
        return
    x, gamma, beta, mean, variance, _, epsilon = node.args
    assert isinstance(x, Node)
    mean, variance = editor.value(mean), editor.value(variance)
    scale = torch.rsqrt(variance.double() + float(epsilon))  # type: ignore[arg-type]
    if gamma is not None:
        scale = scale * editor.value(gamma)
    shift = -mean * scale
    if beta is not None:
        shift = shift + editor.value(beta)
    layer = _layer_before(x)
    if layer is not None:
        old = editor.value(layer.args[1])
        weight = (old * scale.reshape(-1, *[1] * (old.ndim - 1))).float()
        bias = (
            shift
            if len(layer.args) < 3 or layer.args[2] is None
            else (shift + scale * editor.value(layer.args[2]))
        )
        args = (
            layer.args[0],
            editor.constant(layer, weight),
            editor.constant(layer, bias.float()),
            *layer.args[3:],
        )
        new = editor.call(layer, cast(Callable[..., Any], layer.target), args, layer)
        if layer is not x:
            x.replace_input_with(layer, new)
            new = x
    elif len(shape_of(x)) == 4:
        weight = scale.float().reshape(-1, 1, 1, 1)
        args = (
            x,
            editor.constant(node, weight),
            editor.constant(node, shift.float()),
            [1, 1],
            [0, 0],
            [1, 1],
            len(scale),
        )
        new = editor.call(node, _ATEN.conv2d.default, args, taken[0] if taken else node)
    else:
        wide = (1, -1, *[1] * (len(shape_of(x)) - 2))
        scaled = editor.call(
            node, _ATEN.mul.Tensor, (x, editor.constant(node, scale.float().reshape(wide))), node
        )
        new = editor.call(
            node,
            _ATEN.add.Tensor,
            (scaled, editor.constant(node, shift.float().reshape(wide))),
            node,
        )
    new.meta["nn_module_stack"] = node.meta.get("nn_module_stack")
    for user in taken:
        editor.replace(user, new)


def _layer_before(x: Node) -> Node | None:
    """The layer whose output channels are those of ``x``, which nothing else reads."""
    if len(x.users) != 1:
        return None
    if x.target is _ATEN.conv2d.default:
        return x
    if x.target is _ATEN.linear.default and len(shape_of(x)) == 2:
        return x  # of more dimensions, the second is not the layer's own
    source = x.args[0] if x.args else None
    if x.target not in _VIEWS or not isinstance(source, Node) or len(source.users) != 1:
        return None
    # Tokens [1, T, C] as rows [T, C], of which a batch norm takes the statistics.
    is_rows = len(shape_of(x)) == 2 and shape_of(x)[-1:] == shape_of(source)[-1:]
    return source if is_rows and source.target is _ATEN.linear.default else None


def _adaptive_pool_to_pool(editor: _Editor, node: Node) -> None:
    """Adaptive average pooling as plain pooling, where its windows are equal and apart."""
    if node.target is not _ATEN.adaptive_avg_pool2d.default:
        return
    source = args_of(node)[0]
    before, after = shape_of(source)[-2:], shape_of(node)[-2:]
    if before == after:
        editor.replace(node, source)
    elif after != (1, 1) and not any(n % out for n, out in zip(before, after, strict=True)):
        window = [n // out for n, out in zip(before, after, strict=True)]
        args = (source, window, window)
        editor.replace(node, editor.call(node, _ATEN.avg_pool2d.default, args, node))


def _global_pool_to_mean(editor: _Editor, node: Node) -> None:
    """Pooling of the whole map as a mean, which may rescale while a pool may not."""
    source = node.args[0] if node.args else None
    if not isinstance(source, Node) or source.meta.get("val") is None:
        return
    if node.target is _ATEN.adaptive_avg_pool2d.default:
        whole = shape_of(node)[2:] == (1, 1)
    elif node.target is _ATEN.avg_pool2d.default:
        arguments = pool_arguments(node)
        whole = (
            arguments.kernel == shape_of(source)[2:]
            and shape_of(node)[2:] == (1, 1)
            and not any(arguments.padding)
            and arguments.divisor is None
            and not node.kwargs
        )
    else:
        return
    if whole and len(shape_of(source)) == 4:
        args = (source, [2, 3], True)
        editor.replace(node, editor.call(node, _ATEN.mean.dim, args, node))


def _padding_before_average(editor: _Editor, node: Node) -> None:
    """Average pooling that counts its padding, as a pad and a pool: XNNPACK has no other way."""
    if node.target is not _ATEN.avg_pool2d.default:
        return
    arguments = pool_arguments(node)
    rows, columns = arguments.padding
    if arguments.ceil_mode or not arguments.counts_padding or arguments.padding == (0, 0):
        return
    pads = (node.args[0], [columns, columns, rows, rows])
    padded = editor.call(node, _ATEN.constant_pad_nd.default, pads, node)
    args = (
        padded,
        list(arguments.kernel),
        list(arguments.stride),
        [0, 0],
        False,
        True,
        arguments.divisor,
    )
    editor.replace(node, editor.call(node, _ATEN.avg_pool2d.default, args, node))


def _transpose_to_permute(editor: _Editor, node: Node) -> None:
    if node.target is not _ATEN.transpose.int:
        return
    rank = len(shape_of(node))
    order = list(range(rank))
    first, second = (dim % rank for dim in args_of(node)[1:])
    order[first], order[second] = order[second], order[first]
    args = (node.args[0], order)
    editor.replace(node, editor.call(node, _ATEN.permute.default, args, node))


def _drop_views_that_cancel(editor: _Editor, node: Node) -> None:
    """A view of a view that has the first one's shape again."""
    if node.target not in _VIEWS:
        return
    source = node.all_input_nodes[0]
    if source.target not in _VIEWS or len(source.users) > 1:
        return
    origin = source.all_input_nodes[0]
    if shape_of(origin) == shape_of(node):
        editor.replace(node, origin)


def _tokens_after_permute(editor: _Editor, node: Node) -> None:
    """[N, C, H, W] -> tokens [N, H * W, C] as permute and view: in NHWC that moves nothing."""
    if node.target is not _ATEN.permute.default or list(args_of(node)[1]) != [0, 2, 1]:
        return
    view = node.all_input_nodes[0]
    if view.target is not _ATEN.reshape.default or len(view.users) > 1:
        return
    source = view.all_input_nodes[0]
    shape = shape_of(source)
    if len(shape) == 4 and shape_of(view)[1:] == (shape[1], shape[2] * shape[3]):
        last = editor.call(node, _ATEN.permute.default, (source, [0, 2, 3, 1]), node)
        args = (last, [-1, shape[2] * shape[3], shape[1]])
        editor.replace(node, editor.call(node, _ATEN.reshape.default, args, node))


def _reshapes_without_batch(editor: _Editor, node: Node) -> None:
    """Every view as a reshape whose first size is -1, so that it takes any number of samples."""
    if node.target not in _VIEWS:
        return
    source = node.args[0]
    assert isinstance(source, Node)
    before, after = shape_of(source), shape_of(node)
    if before == after:
        editor.replace(node, source)
    elif after and after[0] == before[0] == 1:
        while source.target is _ATEN.reshape.default and len(source.users) == 1:
            source = source.all_input_nodes[0]
        args = (source, [-1, *after[1:]])
        editor.replace(node, editor.call(node, _ATEN.reshape.default, args, node))
    elif node.target in (_ATEN.view.default, _ATEN._unsafe_view.default):
        node.target = _ATEN.reshape.default  # what it views may lie otherwise in memory by now


def _mean_without_kept_dims(editor: _Editor, node: Node) -> None:
    """Mean with kept dimensions that a view drops at once, as one mean."""
    if node.target is not _ATEN.reshape.default:
        return
    source = node.all_input_nodes[0]
    if source.target is not _ATEN.mean.dim or len(source.users) > 1 or len(source.args) < 3:
        return
    dims = {dim % 4 for dim in args_of(source)[1]}
    shape = shape_of(source)
    kept = tuple(size for dim, size in enumerate(shape) if dim not in dims)
    if source.args[2] and shape_of(node) == kept and len(shape) == 4:
        args = (source.args[0], sorted(dims))
        editor.replace(node, editor.call(node, _ATEN.mean.dim, args, source))


def _filled(node: Node, count: int, defaults: tuple[object, ...]) -> tuple[Any, ...]:
    """All ``count`` arguments of a node; ``defaults`` are those of the last ones."""
    missing = count - len(node.args)
    return (*node.args, *defaults[len(defaults) - missing :])


class _Located(Interpreter):
    """Runs a graph; ``node`` is the one that runs."""

    node: Node

    def run_node(self, n: Node) -> Any:
        """Runs ``n`` and remembers it."""
        self.node = n
        return super().run_node(n)


def _check_samples_stay_apart(exported: ExportedGraph) -> None:
    generator = torch.Generator().manual_seed(0)
    pair = torch.randn(2, *exported.example_shape[1:], generator=generator)
    with torch.no_grad():
        alone = [exported.module(pair[k : k + 1]) for k in range(2)]
        located = _Located(exported.module)
        try:
            together = located.run(pair)
        except RuntimeError as exc:
            raise ExportError(
                "the network depends on the number of samples in a batch",
                wanted="an op that treats each sample alone",
                given=located.node.format_node(),
                where=where_of(located.node),
                hint="use sizes other than the batch's in reshape, expand and matmul; attention "
                "with the batch first, as in edgeexit/nn/zoo/vit.py, not nn.MultiheadAttention",
            ) from exc
    for name, both, *one in zip(exported.exit_names, together, *alone, strict=True):
        apart = torch.cat(one)
        spread = float(apart.abs().max())
        if not math.isfinite(spread):
            raise ExportError(
                "the network does not answer with finite numbers",
                wanted="finite logits",
                given=f"a logit of {spread}",
                where=f"exit {name!r}",
                hint="its training diverged, or a weight is not finite: train again, with a lower "
                "learning rate",
            )
        if both.shape != apart.shape or not torch.allclose(
            both, apart, rtol=1e-3, atol=1e-4 * max(spread, math.ulp(1.0))
        ):
            raise ExportError(
                "samples of a batch influence each other",
                wanted="the same logits for a sample, alone and in a batch",
                where=f"exit {name!r}",
                hint="remove statistics over the batch from the forward pass",
            )
