"""Networks as ONNX, by jax2onnx, and checked with onnxruntime; both are in the extra `onnx`."""

import logging
import warnings
from typing import Any

import jax

from aa_flax.inference.export.errors import ExportError
from aa_flax.inference.export.served import Program, Served
from aa_flax.json_values import to_json
from aa_flax.ops.platform import traced_for

OPSET = 21
"""The version of ONNX's operators, of 2024."""
PACKAGES = ("jax", "jaxlib", "flax", "jax2onnx", "onnx", "onnxruntime")


def require_packages() -> None:
    """Raise ExportError, in one line, if jax2onnx or onnxruntime is missing, or a package that they need."""
    try:
        import jax2onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ExportError(
            f"format onnx needs jax2onnx and onnxruntime ({error}), in an environment of its own, as they need another "
            "orbax-checkpoint: python3.11 -m venv onnx && onnx/bin/pip install 'aa_flax[onnx]'"
        ) from None


def as_onnx(served: Served, batch: int | None, card: dict[str, Any]) -> bytes:
    """Return the ONNX model that computes a network, with a card among its metadata.

    Args:
        served: the network.
        batch: the number of images; None leaves it open.
        card: what is kept under "aa_flax" in the model's metadata.

    Raises:
        ExportError: the network has an operation that jax2onnx does not know.
    """
    import jax2onnx

    names = [each.name for each in served.outputs()]

    def network(*arrays: Any) -> tuple[Any, ...]:
        found = served(served.variables, *arrays)
        return tuple(found[name] for name in names)

    inputs = served.shapes(batch)
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it warns of each shape that has no symbol
    try:
        with traced_for("onnx", kernels=False), jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # jax2onnx adds biases as vectors, and asks for float64 in vain
            model = jax2onnx.to_onnx(
                network,
                inputs,
                model_name=card["model"],
                opset=OPSET,
                input_names=[each.name for each in served.inputs],
                output_names=names,
            )
    except Exception as error:  # jax2onnx raises what it comes across
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"jax2onnx cannot write this network as ONNX ({type(error).__name__}: {reason}); format stablehlo can"
        ) from error
    entry = model.metadata_props.add()
    entry.key, entry.value = "aa_flax", to_json(card)
    return bytes(model.SerializeToString())


def from_onnx(content: bytes) -> Program:
    """Return the program in the bytes of a file, run by onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    inputs, outputs = ([each.name for each in listed] for listed in (session.get_inputs(), session.get_outputs()))

    def run(*arrays: Any) -> dict[str, Any]:
        return dict(zip(outputs, session.run(outputs, dict(zip(inputs, arrays, strict=True))), strict=True))

    return run
