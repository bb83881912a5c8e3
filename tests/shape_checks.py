"""The checker that reads the shape annotations of ctml while the tests run; an int passes for a float."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
