"""What a network costs and what it looks at."""

from aa_flax.drawing.attention_maps import attention_maps
from aa_flax.drawing.summary import Summary, summarize

__all__ = ["Summary", "attention_maps", "summarize"]
