"""The program that exports one scikit-learn model to ONNX, by skl2onnx: run by the Python that has both, in a sandbox.

`export_child` says how it is asked; of this one, "inputs" is [[name, NumPy type, columns]] or null. What was exported
is compared with the model itself, on random rows.
"""

from __future__ import annotations

import os
import sys
import types

if __name__ == "__main__":
    # Only this one package becomes importable, not what lies beside it: that is another interpreter's.
    package = types.ModuleType("registry")
    package.__path__ = [os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))]
    sys.modules["registry"] = package

from typing import Any

from registry.publishing.sources.export_child import ExportRefusal, answer, distance

ROWS = 64


def load(path: str, unpickle: bool) -> Any:
    """The model. A .skops file holds no code: types that skops does not know as harmless are refused."""
    if path.endswith(".skops"):
        import skops.io  # noqa: PLC0415 - only of this form

        unknown = skops.io.get_untrusted_types(file=path)
        if unknown and not unpickle:
            names = ", ".join(unknown[:5])
            raise ExportRefusal(
                f"it needs types that skops does not know to be harmless ({names}); --trust-pickle allows them"
            )
        return skops.io.load(path, trusted=unknown)
    if not unpickle:
        raise ExportRefusal("the file is a pickle, which runs code when it is read; --trust-pickle allows it")
    import joblib  # noqa: PLC0415 - comes with scikit-learn; reads plain pickles, too

    return joblib.load(path)


def export(model: Any, inputs: Any, out: str) -> dict[str, Any]:
    """Writes the ONNX file, and compares."""
    import numpy as np  # noqa: PLC0415 - starts threads, which Landlock holds only when they start after it
    import skl2onnx  # noqa: PLC0415
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415
    from skl2onnx.common import data_types  # noqa: PLC0415

    kinds = {"float32": data_types.FloatTensorType, "float64": data_types.DoubleTensorType}
    kinds["int64"] = data_types.Int64TensorType
    columns = getattr(model, "n_features_in_", None)
    if inputs is None and columns is None:
        raise ExportRefusal("the model does not say how many features it takes (n_features_in_)")
    inputs = inputs or [["x", "float32", columns]]
    if len(inputs) != 1 or inputs[0][1] not in kinds:
        raise ExportRefusal(f"only models of one matrix of {', '.join(kinds)} are exported here, not {inputs}")
    name, kind, width = inputs[0]
    options = {id(model): {"zipmap": False}} if hasattr(model, "predict_proba") else None
    made = skl2onnx.to_onnx(model, initial_types=[(name, kinds[kind]([None, width]))], options=options)
    with open(out, "wb") as file:
        file.write(made.SerializeToString())
    rows = np.random.default_rng(0).standard_normal((ROWS, width)).astype(kind)
    wanted = [model.predict(rows)]
    if hasattr(model, "predict_proba"):
        wanted.append(model.predict_proba(rows))
    found = ReferenceEvaluator(made).run(None, {name: rows})
    return {"compared": ROWS, "difference": max(map(distance, wanted, found))}


def exported(order: dict[str, Any]) -> dict[str, Any]:
    """One model."""
    import sklearn  # noqa: PLC0415 - only now: see `distance`

    return {
        "version": sklearn.__version__,
        **export(load(order["file"], order["pickle"]), order["inputs"], order["out"]),
    }


if __name__ == "__main__":
    answer(exported)
