"""What a network costs and what it looks at; what a function does on a chip."""

from aa_flax.analysis.counting import Counted, count
from aa_flax.drawing.attention_maps import attention_maps
from aa_flax.drawing.summary import Summary, summarize

__all__ = ["Counted", "Summary", "attention_maps", "count", "summarize"]
