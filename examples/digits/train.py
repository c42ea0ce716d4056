"""Train a small CNN on scikit-learn's digits and save it in every form that modelport reads.

Writes into --out: digits.pt2, digits.onnx, digits_saved_model/, digits.keras (all the same network), images/ (a
folder of PNG images with preprocess.toml, for --calibration), calibration.npz and held_out.npz (NCHW arrays with
labels). 1797 real 8 × 8 images: 1347 train and calibrate, 450 are held out. Takes seconds on two cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

SEED = 0
CHANNELS = (16, 32, 64)
HERE = Path(__file__).resolve().parent


class DigitsNet(nn.Module):
    """Three convolutions with batch normalisation; input (batch, 1, 8, 8) in 0..1, output 10 logits."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(zip((1, *CHANNELS), CHANNELS, strict=False)):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            if index < 2:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(CHANNELS[-1] * 4, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits, shape (batch, 10)."""
        features = self.features(image)
        # Channels last before flattening, so that the Keras twin has the same head weights.
        return self.head(features.permute(0, 2, 3, 1).flatten(1))


def load_data() -> tuple[np.ndarray[Any, Any], ...]:
    """(train images, held-out images, train labels, held-out labels); images are (n, 8, 8) integers 0..16."""
    digits = load_digits()
    return tuple(
        train_test_split(
            digits.images, digits.target, test_size=450, random_state=SEED, stratify=digits.target
        )
    )


def as_input(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The network's input: float32 of shape (n, 1, 8, 8), values 0..1."""
    return (images[:, None] / 16.0).astype(np.float32)


def train(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], epochs: int) -> DigitsNet:
    """Train with Adam and a one-cycle schedule; the same seed gives the same weights."""
    torch.manual_seed(SEED)
    net = DigitsNet()
    x, y = torch.from_numpy(as_input(images)), torch.from_numpy(labels.astype(np.int64))
    steps = epochs * -(-len(x) // 64)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch], label_smoothing=0.05).backward()
            optimizer.step()
            schedule.step()
    net.eval()
    return net


def save_torch(net: DigitsNet, out: Path) -> None:
    """digits.pt2 with a free batch axis, and digits.onnx from it."""
    example = (torch.zeros(2, 1, 8, 8),)
    program = torch.export.export(net, example, dynamic_shapes={"image": {0: torch.export.Dim("batch")}})
    torch.export.save(program, out / "digits.pt2")
    exported = torch.onnx.export(
        net,
        example,
        dynamo=True,
        opset_version=21,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    exported.save(str(out / "digits.onnx"))


def save_keras(net: DigitsNet, out: Path) -> None:
    """digits.keras and digits_saved_model/: the same weights, NHWC as Keras wants it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    tensors = iter([value.numpy() for name, value in net.state_dict().items() if "num_batches" not in name])
    weights: list[np.ndarray[Any, Any]] = []
    image = keras.Input((8, 8, 1), name="image")
    x = image
    for index, channels in enumerate(CHANNELS):
        x = keras.layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(epsilon=1e-5)(x)
        x = keras.layers.ReLU()(x)
        if index < 2:
            x = keras.layers.MaxPooling2D(2)(x)
        weights += [next(tensors).transpose(2, 3, 1, 0), *(next(tensors) for _ in range(4))]
    logits = keras.layers.Dense(10, name="logits")(keras.layers.Flatten()(x))
    model = keras.Model(image, logits, name="digits")
    weights += [next(tensors).T, next(tensors)]
    model.set_weights(weights)
    model.save(out / "digits.keras")
    shutil.rmtree(out / "digits_saved_model", ignore_errors=True)
    model.export(out / "digits_saved_model", verbose=False)


def save_data(out: Path, split: tuple[np.ndarray[Any, Any], ...]) -> None:
    """The calibration and held-out images: NCHW arrays with labels, and a folder of PNG files."""
    train_images, held_images, train_labels, held_labels = split
    np.savez(out / "calibration.npz", image=as_input(train_images), labels=train_labels)
    np.savez(out / "held_out.npz", image=as_input(held_images), labels=held_labels)
    folder = out / "images"
    shutil.rmtree(folder, ignore_errors=True)
    for index, (image, label) in enumerate(zip(train_images[:512], train_labels[:512], strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(folder / str(label) / f"{index:04d}.png")
    shutil.copy(HERE / "preprocess.toml", folder / "preprocess.toml")


def main() -> None:
    """Train, save every form, and print the held-out accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "artifacts")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--only", choices=("torch", "keras"), help="leave the other framework's files out")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    split = load_data()
    net = train(split[0], split[2], args.epochs)
    with torch.no_grad():
        right = (net(torch.from_numpy(as_input(split[1]))).argmax(1).numpy() == split[3]).mean()
    print(
        f"digits CNN: {sum(p.numel() for p in net.parameters())} parameters, {right:.2%} of the held-out images right"
    )
    if args.only != "keras":
        save_torch(net, args.out)
    if args.only != "torch":
        save_keras(net, args.out)
    save_data(args.out, split)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
