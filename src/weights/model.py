"""The network of this folder in plain PyTorch.

    import model
    net = model.load(".")                   # the folder with config.json and model.safetensors
    features = net(clips)                   # clips [n, c, t, h, w], normalised as config.json's "input" says
    codes = net.codes(features)             # {head: [n, d]}, rows of unit length, if the file has heads
    logits = net.classify(features)         # [n, classes], if the file has a classifier
    names = net.config.get("classes")       # of the logits, if they are known

`python3 model.py FOLDER` loads the weights and prints the network. It needs torch, and safetensors to read the file.
Parameters have the names of the file, so `net.load_state_dict(tensors)` is strict.
"""

import json
import pathlib
import sys

import torch
from torch import nn
from torch.nn import functional as F


def _place(root, name, module):
    """Registers `module` in `root` under a dotted name, with empty modules on the way."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]
    root.add_module(last, module)
    return module


class Network(nn.Module):
    """A trunk of convolutions with batch norm, described by `config["layers"]`, and the heads that follow it."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        layers = config["layers"]
        # What the forward pass walks through. In lists and tuples modules are not registered a second time.
        self._stem = [self._layer(layer) for layer in layers["stem"]]
        self._pool = layers["pool"]
        self._blocks = [self._block(block) for block in layers["blocks"]]
        self._heads = {name: self._head(name, head) for name, head in config["heads"].items()}
        self._classifier = [self._linear(config["classifier"])] if config["classifier"] else []
        for linear in config["other_linears"]:
            self._linear(linear)  # a part of the training objective, kept so that the file loads strictly

    def _layer(self, layer):
        conv = nn.Conv3d(layer["from"], layer["to"], layer["kernel"], layer["stride"], layer["pad"], bias=False)
        _place(self, layer["conv"], conv)
        return conv, self._norm(layer["norm"], layer["to"], nn.BatchNorm3d)

    def _norm(self, name, channels, kind):
        if name is None:
            return None
        numbers = self.config["norm"]
        return _place(self, name, kind(channels, eps=numbers["eps"], momentum=numbers["momentum"]))

    def _block(self, block):
        path = [self._layer(layer) for layer in block["path"]]
        shortcut = block["shortcut"]
        if isinstance(shortcut, dict):
            shortcut = self._layer(shortcut["projection"])
        return path, shortcut

    def _linear(self, linear):
        return _place(self, linear["name"], nn.Linear(linear["from"], linear["to"]))

    def _head(self, name, head):
        sizes = self.config["features"], head["hidden"], head["code"]
        hidden, code = (
            self._linear({"name": f"{name}.{at}", "from": i, "to": o}) for at, i, o in ((0, *sizes[:2]), (2, *sizes[1:]))
        )
        return hidden, self._norm(f"{name}.1" if head["normalised"] else None, head["hidden"], nn.BatchNorm1d), code

    @staticmethod
    def _convolve(layer, x, relu):
        conv, norm = layer
        x = conv(x)
        if norm is None:
            return x
        return F.relu(norm(x)) if relu else norm(x)

    def forward_map(self, clips):
        """Clips [n, c, t, h, w] to the last feature map [n, features, t', h', w']."""
        x = clips
        for layer in self._stem:
            x = self._convolve(layer, x, True)
        if self._pool is not None:
            window = self._pool["window"]
            x = F.max_pool3d(x, self._pool["kernel"], window["stride"], window["pad"], window["dilation"])
        for path, shortcut in self._blocks:
            y = x
            for layer in path[:-1]:
                y = self._convolve(layer, y, True)
            y = self._convolve(path[-1], y, False)
            if shortcut == "identity":
                y = y + x
            elif shortcut != "none":
                y = y + self._convolve(shortcut, x, False)
            x = F.relu(y)
        return x

    def forward(self, clips):
        """Clips [n, c, t, h, w] to features [n, features]: the mean of the last map."""
        return self.forward_map(clips).mean((2, 3, 4))

    def codes(self, features):
        """Features to the codes that were contrasted in pre-training, by the head's name; rows of unit length."""
        codes = {}
        for name, (hidden, norm, code) in self._heads.items():
            x = hidden(features)
            codes[name] = F.normalize(code(F.relu(x if norm is None else norm(x))), dim=1)
        return codes

    def classify(self, features):
        """Features to logits [n, classes]."""
        if not self._classifier:
            raise ValueError("this network has no classifier")
        return self._classifier[0](features)


def load(folder):
    """The network in `folder`, in evaluation mode. Weights that are missing or too many are an error."""
    from safetensors.torch import load_file

    folder = pathlib.Path(folder)
    network = Network(json.loads((folder / "config.json").read_text()))
    network.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return network.eval()


if __name__ == "__main__":
    loaded = load(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
    print(loaded)
    print(f"{sum(p.numel() for p in loaded.parameters()):,} parameters, {loaded.config['features']} features")
