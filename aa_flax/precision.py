"""The precision of sums and statistics, which is at least that of float32."""

from typing import Any

import jax.numpy as jnp
import numpy as np


def at_least_float32(*dtypes: Any) -> np.dtype:
    """Return float32, or the widest of these floating-point types if that is wider.

    `jnp.promote_types` returns the same, but raises an error where the user has set
    `jax.numpy_dtype_promotion("strict")`.
    """
    floating = [jnp.dtype(dtype) for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]
    return max([jnp.dtype(jnp.float32), *floating], key=lambda dtype: dtype.itemsize)
