"""No DataFrame on the request path."""

import pandas as pd
