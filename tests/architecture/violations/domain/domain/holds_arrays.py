"""The domain is words; arrays belong to the log."""

import numpy as np
