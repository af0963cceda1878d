"""Trains LeNet-5 with MindSpore on real digits (scikit-learn's, from 8x8 to 32x32). Run by MindSpore's interpreter:

PYTHON -I mindspore_training.py train CATALOGUE FOLDER    lenet.ckpt, lenet.mindir, test.npz (pictures and labels)
PYTHON -I mindspore_training.py onnx CATALOGUE FOLDER     lenet.onnx of that checkpoint: one ONNX export a process

MindSpore leaves the batch of an ONNX output at 1, and files of mode 0400: both are put right here.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mindspore
import numpy as np
import onnx
from mindspore import Tensor, nn
from mindspore.dataset import NumpySlicesDataset
from mindspore.train import Model
from sklearn.datasets import load_digits

sys.path.insert(0, str(Path(__file__).parent))
from mindspore_models import networks

EPOCHS, BATCH, RATE, TRAINING = 3, 32, 2e-3, 1400


def digits() -> tuple[np.ndarray, np.ndarray]:
    """[1797, 1, 32, 32] from 0 to 1, and what each shows; shuffled, the same every time."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    pictures = np.kron(data.images[order] / 16, np.ones((4, 4)))[:, np.newaxis]
    return pictures.astype(np.float32), data.target[order].astype(np.int32)


def train(catalogue: Path, folder: Path) -> None:
    """The checkpoint as training leaves it, and the network as MindIR, any batch."""
    mindspore.set_seed(1)
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    pictures, labels = digits()
    network = networks(catalogue).build("lenet5", {"num_class": 10})
    optimizer = nn.Adam(network.trainable_params(), learning_rate=RATE)
    model = Model(network, nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean"), optimizer)
    rows = {"data": pictures[:TRAINING], "label": labels[:TRAINING]}
    model.train(EPOCHS, NumpySlicesDataset(rows, shuffle=True).batch(BATCH), dataset_sink_mode=False)
    mindspore.save_checkpoint(model.train_network, str(folder / "lenet.ckpt"))
    np.savez(folder / "test.npz", pictures=pictures[TRAINING:], labels=labels[TRAINING:])
    example = Tensor(shape=(None, 1, 32, 32), dtype=mindspore.float32)
    mindspore.export(network.set_train(False), example, file_name=str(folder / "lenet.mindir"), file_format="MINDIR")


def export_onnx(catalogue: Path, folder: Path) -> None:
    """The trained network as ONNX, any batch."""
    network = networks(catalogue).build("lenet5", {"num_class": 10}).set_train(False)
    mindspore.load_param_into_net(network, mindspore.load_checkpoint(str(folder / "lenet.ckpt")))
    file = folder / "lenet.onnx"
    mindspore.onnx.export(
        network,
        Tensor(np.zeros((1, 1, 32, 32), np.float32)),
        file_name=str(file),
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
    )
    file.chmod(0o644)
    model = onnx.load(file)
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, file)


if __name__ == "__main__":
    orders = {"train": train, "onnx": export_onnx}
    orders[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
    for left in Path(sys.argv[3]).iterdir():
        left.chmod(0o644)
