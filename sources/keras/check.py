"""What a Keras config may name: Keras's own classes that compute, and nothing that brings code or reads files."""

from __future__ import annotations

from typing import Any

from ...targets.errors import SourceUnreadable

ROOMS = frozenset(
    ("activations", "constraints", "dtype_policies", "initializers", "layers", "losses", "metrics", "models", "ops",
     "optimizers", "quantizers", "random", "regularizers")
)  # fmt: skip
"""The parts of Keras whose classes and functions a config may name: `keras.layers`, `keras.src.ops.numpy`..."""

PLAIN = frozenset(
    ("Sequential", "Functional", "Model", "DTypePolicy", "FloatDTypePolicy", "SeedGenerator", "InputSpec",
     "Initializer", "Regularizer", "Constraint")
)  # fmt: skip
"""Classes that are named by the module `keras` itself."""

REFUSED = {
    "Lambda": "it carries Python code",
    "TorchModuleWrapper": "it carries a pickle",
    "FlaxLayer": "it carries Python code",
    "JaxLayer": "it carries Python code",
    "TFSMLayer": "it loads another model by its path",
}
"""Keras's own layers that bring code or files with them."""

VALUES = frozenset(("__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"))
"""Class names that stand for plain values."""

MAX_DEPTH = 200

_MEND = (
    "modelport runs no code that comes with a model: save it with Keras's own layers, or export a SavedModel"
)


def check_config(config: dict[str, Any], where: str) -> None:
    """Refuse a model config that names anything but Keras's own classes; errors name the layer.

    The outermost `compile_config` is left out: modelport loads without compiling.
    """
    if not isinstance(config.get("class_name"), str) or not isinstance(config.get("config"), dict):
        raise SourceUnreadable("the model has no class_name or config", where=where)
    shown = {key: value for key, value in config.items() if key != "compile_config"}
    waiting: list[tuple[Any, str, int]] = [(shown, "model", 0)]
    while waiting:
        value, layer, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise SourceUnreadable(f"nested deeper than {MAX_DEPTH}", where=f"{where}: layer {layer!r}")
        if isinstance(value, list):
            waiting.extend((item, layer, depth + 1) for item in value)
        if not isinstance(value, dict):
            continue
        if "class_name" in value:
            inner = value.get("config")
            name = value.get("name", inner.get("name") if isinstance(inner, dict) else None)
            layer = name if isinstance(name, str) else layer
            _check_object(value, f"{where}: layer {layer!r}")
        waiting.extend((item, layer, depth + 1) for item in value.values())


def _check_object(value: dict[str, Any], where: str) -> None:
    name, module, registered = value["class_name"], value.get("module"), value.get("registered_name")
    if not isinstance(name, str):
        raise SourceUnreadable("class_name is no text", where=where)
    if name in VALUES:
        return
    if name in REFUSED or name.startswith("__"):
        reason = REFUSED.get(name, "it is code or a type of another library")
        raise SourceUnreadable(f"{name!r} is refused: {reason}", where=where, mend=_MEND)
    builtin = name == "function" and module == "builtins"
    if not builtin and not _is_own(module, name):
        shown = registered or (f"{module}.{name}" if module else name)
        raise SourceUnreadable(f"{shown!r} is not part of Keras", where=where, mend=_MEND)
    if isinstance(registered, str) and registered not in (name, value.get("config")) and registered:
        raise SourceUnreadable(f"{registered!r} is a registered class of the user's", where=where, mend=_MEND)
    inner = value.get("config")
    vocabulary = inner.get("vocabulary") if isinstance(inner, dict) else None
    if isinstance(vocabulary, str):
        fact = f"the vocabulary is read from the file {vocabulary[:200]!r}"
        raise SourceUnreadable(fact, where=where, mend="Save the model with its vocabulary inside")


def _is_own(module: object, name: str) -> bool:
    if not isinstance(module, str):
        return False
    parts = module.split(".")
    if parts[0] != "keras":
        return False
    rest = parts[2:] if parts[1:2] == ["src"] else parts[1:]
    return rest[0] in ROOMS if rest else name in PLAIN
