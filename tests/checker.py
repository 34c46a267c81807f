"""The checker of types and shapes that `make test` puts around every function of glore."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int may stand where a float is expected
