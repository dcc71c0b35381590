"""The one array type of the hot path."""

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
