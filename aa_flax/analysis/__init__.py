"""What a network costs and what it looks at."""

from aa_flax.analysis.attention_maps import attention_maps
from aa_flax.analysis.summary import Summary, summarize

__all__ = ["Summary", "attention_maps", "summarize"]
