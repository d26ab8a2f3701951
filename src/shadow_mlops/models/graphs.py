"""ONNX graphs with few inputs: columns are gathered from two blocks inside the graph, not fed one by one.

Feeding 25 inputs costs onnxruntime five times what it takes to score a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from shadow_mlops.domain.errors import ModelRefusedError
from shadow_mlops.domain.features import Signature
from shadow_mlops.models.runtimes.onnx import NUMBERS, SCORES, STRINGS

TREES = frozenset({"TreeEnsembleClassifier", "TreeEnsembleRegressor"})
_ROUNDED = "shadow_rounded"
_ALL = -1
_OPSET = 15


def gather_blocks(
    model: onnx.ModelProto, signature: Signature, scores: str, *, by_column: bool, double: bool
) -> onnx.ModelProto:
    """Give a graph the inputs ``numbers`` and ``strings`` and the one output ``scores``.

    Parameters
    ----------
    model
        Graph to rewrite.
    by_column
        The graph has one (n, 1) input per feature, by name; else it has the block ``numbers`` already.
    double
        The graph computes on float64; else the numbers, float64 as they come, are rounded to float32 first.
    scores
        Output to keep; it is renamed ``scores``.

    Returns
    -------
    onnx.ModelProto
        A new, checked graph without the nodes that only other outputs needed.
    """
    graph = model.graph
    blocks = {name: (NUMBERS, i) for i, name in enumerate(signature.numbers)}
    blocks |= {name: (STRINGS, i) for i, name in enumerate(signature.strings)}
    if by_column:  # skl2onnx renames an input whose column is no identifier ("od280/od315"); their order it keeps
        blocks = {i.name: blocks[f.name] for i, f in zip(graph.input, signature.features, strict=True)}
    sizes = {NUMBERS: len(signature.numbers), STRINGS: len(signature.strings)}
    nodes = _Rewriter(blocks if by_column else {NUMBERS: (NUMBERS, _ALL)}, sizes, double=double)
    for node in graph.node:
        nodes.add(node)
    kept = _needed(nodes.made, scores)
    for node in kept:
        for i, name in enumerate(node.output):
            if name == scores:
                node.output[i] = SCORES
        for i, name in enumerate(node.input):
            if name == scores:
                node.input[i] = SCORES
    used = {name for node in kept for name in node.input}
    inputs = [
        helper.make_tensor_value_info(block, kind, [None, sizes[block]])
        for block, kind in ((NUMBERS, TensorProto.DOUBLE), (STRINGS, TensorProto.STRING))
        if block in used
    ]
    kind = next(out.type.tensor_type.elem_type for out in graph.output if out.name == scores)
    if _source(kept).op_type in TREES:
        kind = TensorProto.FLOAT  # whatever goes in; converters declare what went in
    constants = [each for each in [*graph.initializer, *nodes.constants] if each.name in used]
    made = helper.make_graph(
        kept, "shadow", inputs, [helper.make_tensor_value_info(SCORES, kind, [None, None])], constants
    )
    opsets = list(model.opset_import)
    if all(each.domain for each in opsets):  # a graph of one tree ensemble has been without the operators added here
        opsets.append(helper.make_opsetid("", _OPSET))
    whole = helper.make_model(made, opset_imports=opsets, ir_version=model.ir_version)
    onnx.checker.check_model(whole)
    return whole


class _Rewriter:
    """Nodes in order, with reads of columns turned into gathers from blocks."""

    def __init__(self, blocks: dict[str, tuple[str, int]], sizes: dict[str, int], *, double: bool) -> None:
        self._blocks = blocks
        self._sizes = sizes
        self._same: dict[str, str] = {}
        self._gathered: dict[tuple[str, tuple[int, ...]], str] = {}
        self.made: list[Any] = []
        self._numbers = NUMBERS if double else _ROUNDED
        if not double:  # in the graph it costs no more than before it, and too large a value is infinite, no warning
            self.made.append(helper.make_node("Cast", [NUMBERS], [_ROUNDED], to=TensorProto.FLOAT))
        self.constants: list[Any] = []

    def add(self, node: Any) -> None:
        joins = _joins_columns(node)
        names = self._merged(node) if joins else [self._one(name) for name in node.input]
        if joins and len(names) == 1:  # all of it is one gather now
            self._same[node.output[0]] = names[0]
            return
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        del copy.input[:]
        copy.input.extend(names)
        self.made.append(copy)

    def _one(self, name: str) -> str:
        if name not in self._blocks:
            return self._same.get(name, name)
        block, index = self._blocks[name]
        return self._gather(block, (index,))

    def _merged(self, node: Any) -> list[str]:
        """Inputs of a Concat, where each run of columns of one block is one gather."""
        names: list[str] = []
        run: list[int] = []
        current = ""
        for name in [*node.input, ""]:
            block, index = self._blocks.get(name, ("", -1))
            if run and block != current:
                names.append(self._gather(current, tuple(run)))
                run = []
            current = block
            if block:
                run.append(index)
            elif name:
                names.append(self._one(name))
        return names

    def _gather(self, block: str, indices: tuple[int, ...]) -> str:
        source = self._numbers if block == NUMBERS else block
        if indices in (tuple(range(self._sizes[block])), (_ALL,)):
            return source
        if (block, indices) not in self._gathered:
            number = len(self._gathered)
            output, constant = f"shadow_gathered_{number}", f"shadow_indices_{number}"
            self.constants.append(numpy_helper.from_array(np.array(indices, dtype=np.int64), constant))
            self.made.append(helper.make_node("Gather", [source, constant], [output], axis=1))
            self._gathered[block, indices] = output
        return self._gathered[block, indices]


def _joins_columns(node: Any) -> bool:
    return node.op_type == "Concat" and any(a.name == "axis" and a.i in (1, -1) for a in node.attribute)


def _source(kept: Sequence[Any]) -> Any:
    """The node that computes the last node's output."""
    node = kept[-1]
    while node.op_type == "Identity":
        node = next(each for each in kept if node.input[0] in each.output)
    return node


def _needed(nodes: Sequence[Any], output: str) -> list[Any]:
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
    if not kept:
        raise ModelRefusedError(f"the graph has no node that gives its output {output!r}")
    return kept[::-1]
