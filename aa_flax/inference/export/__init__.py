"""Networks as programs that run without this library: StableHLO and ONNX, with a card beside each."""

from aa_flax.inference.export.errors import ExportError
from aa_flax.inference.export.exporting import Wanted, export

__all__ = ["ExportError", "Wanted", "export"]
