"""Margins of every clip: how far below the clipping norm it aims, so that rounding cannot carry a result above it.

| vector                                                   | aims at       | because                                |
|----------------------------------------------------------|---------------|----------------------------------------|
| per-patient gradients in a `clipped_sum`                 | C (1 - 2^-12) | `SINGLE_PRECISION`                     |
| one float64 vector: `privacy.updates`, `training.convex` | C (1 - 1e-9)  | `DOUBLE_PRECISION`                     |
| the same, on features: `reproduce.mechanisms.pictures`   | C (1 - 1e-9)  | `DOUBLE_PRECISION`                     |
| one vector before a grid: `privacy.rows`                 | C             | the grid checks the norm, exactly      |
| one vector on a grid: `secure_aggregation` `Grid`        | D - sqrt(d)/2 | rounding to whole steps; then checked  |

`secure_aggregation` is an island and holds its own arithmetic: whole numbers, whose norm is checked without rounding.
"""

SINGLE_PRECISION = 1.0 - 2.0**-12
"""Factor on C where float32 gradients are clipped and added up.

Three roundings have to fit: the norm (`layers.base.squared` leaves float32 only inside blocks of 1,024 entries, below
2^-14), the product with the clip factor, and the sum. A ghost norm, taken without forming the gradient, and the sum
formed afterwards are two computations; `MOST_CANCELLED` keeps them within a few parts in 2^13 of each other.

These bounds hold for additions in any order, so for every device whose float32 products round as IEEE 754 has it, and
for a GPU's atomic additions, whose order is another in each run. TF32 and bfloat16 products do not round so:
`process.in_single_precision` forbids them.
"""

DOUBLE_PRECISION = 1.0 - 1e-9
"""Factor on C where one float64 vector is scaled once.

In the worst order of the sum, the norm of d numbers is right to d 2^-54 of itself (Higham 2002, Accuracy and Stability
of Numerical Algorithms, section 3.1): below 1e-9 for d <= 2^24. BLAS adds up in several partial sums, each shorter.
"""

MOST_CANCELLED = 2.0**-10
"""A squared ghost norm below this part of its terms is not trusted to rounding: that gradient is formed."""

LEAST_CLIPPING_NORM = 1e-10
"""Least C in single precision. Squares of float32 numbers below 1e-19 vanish; C is far above what they add up to."""

LEAST_STABILITY = 1e-10
"""Least constant that automatic clipping adds to a norm, for the same reason."""


def before_margin(clipping_norm: float) -> float:
    """Returns the clipping norm at which a rule, which leaves `SINGLE_PRECISION`, aims at this one."""
    return clipping_norm / SINGLE_PRECISION
