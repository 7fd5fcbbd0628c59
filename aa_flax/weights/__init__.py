"""Import and export of weights: those of PyTorch's networks, and this library's own safetensors files.

python -m aa_flax.weights import --model=resnet50 --source=timm resnet50.safetensors ours.safetensors
python -m aa_flax.weights export --source=timm ours.safetensors theirs.safetensors
"""

from aa_flax.weights.convert import load_torch_state_dict, to_torch_state_dict
from aa_flax.weights.errors import WeightsError
from aa_flax.weights.files import load, save
from aa_flax.weights.plain import init_from_plain
from aa_flax.weights.report import Report
from aa_flax.weights.state_dicts import read_state_dict

__all__ = [
    "Report",
    "WeightsError",
    "init_from_plain",
    "load",
    "load_torch_state_dict",
    "read_state_dict",
    "save",
    "to_torch_state_dict",
]
