"""Are the items of a run independent of each other? Proven from an ONNX graph, or not; never guessed.

The axis of the items is followed from every input through every operator, subgraphs included, by the operator's own
definition, over an allow-list (`RULES`; docs/batching.md lists it). What is not on the list, in a newer opset, of
another domain, or cannot be followed is not proven, and the node that was in the way is named.

Pure: reads a parsed `onnx.ModelProto`, runs nothing. What is claimed, for every number of items N: each output has the
items along its first axis, and row i is what a run of item i alone gives, up to the rounding of kernels. Tests compare
every proven model with ONNX Runtime, alone and together, models made at random among them.
"""
