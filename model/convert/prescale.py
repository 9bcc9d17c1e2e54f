"""What is multiplied into tensors before they are quantized, and how much each input matters.

Both are plain tables by name; who makes them is imatrix.py's and awq.py's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
# Module -> mean square of each input, [in] or [experts, in].
Importance = Mapping[str, Floats]


@dataclass(frozen=True, slots=True)
class Scaling:
    """Factors of one tensor, float32. Of a matrix [out, in] or [experts, out, in]: `inputs` [in]
    or [experts, in], `outputs` [out] or [experts, out]. Of a norm [n]: `outputs` [n]."""

    inputs: Floats | None = None
    outputs: Floats | None = None

    def apply(self, values: Floats, start: int = 0) -> Floats:
        """The scaled values of a range of the first axis that begins at `start`."""
        stop = start + values.shape[0]
        if values.ndim == 1:
            return values if self.outputs is None else values * self.outputs[start:stop]
        if self.inputs is not None:
            inputs = self.inputs
            values = values * (inputs[start:stop, None, :] if inputs.ndim == 2 else inputs)
        if self.outputs is None:
            return values
        if values.ndim == 2:
            return values * self.outputs[start:stop, None]
        outputs = self.outputs
        return values * (outputs[start:stop, :, None] if outputs.ndim == 2 else outputs[:, None])


# Tensor name -> its factors.
Prescaling = Mapping[str, Scaling]
