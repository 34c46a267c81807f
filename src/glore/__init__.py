"""Graph-based global reasoning (GloRe) units for PyTorch, their rivals, and their insertion into any network."""

from glore import weights as weights
from glore.insert import insert as insert
from glore.insert import remove as remove
from glore.insert import spread as spread
from glore.insert import units_of as units_of
from glore.units import GloRe1d as GloRe1d
from glore.units import GloRe2d as GloRe2d
from glore.units import GloRe3d as GloRe3d
from glore.weights import adopt as adopt

__version__ = "0.1.0"
