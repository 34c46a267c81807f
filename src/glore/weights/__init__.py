"""Files and published modules ↔ our networks."""

from glore.weights.official import adopt as adopt
from glore.weights.official import from_official as from_official
from glore.weights.official import load_official as load_official
