"""Trained networks as folders that can be shared: `save`, `load` and `push`.

    aa_flax.hub.save(aa_flax.load("runs/mine"), "mine")  # config.json, model.safetensors and README.md, the model card
    predictor = aa_flax.load("mine")
    aa_flax.hub.push("mine", "owner/name")
    predictor = aa_flax.load("hf_hub:owner/name")

Only the last two need the network and `huggingface_hub` (pip install 'aa_flax[hub]'). A ResNet,
SE-ResNet or MnasNet with timm's layers is saved so that `timm.create_model("hf_hub:owner/name", pretrained=True)` reads
it too.
"""

from aa_flax.inference.hub_folder import save
from aa_flax.inference.repository import HubError
from aa_flax.inference.sharing import load, push

__all__ = ["HubError", "load", "push", "save"]
