"""Fine-tuning on a folder of one's own: `aa-flax finetune FOLDER --from=WEIGHTS`, and the same from Python.

from aa_flax.finetuning import finetune

flowers = finetune("flowers", weights="runs/birds", workdir="runs/flowers")
flowers("photo.jpg").name
"""

from aa_flax.finetuning.recipe import Recipe, recipe
from aa_flax.finetuning.run import finetune

__all__ = ["Recipe", "finetune", "recipe"]
