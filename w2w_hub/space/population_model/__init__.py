"""The population as a model: the mean coefficients of people with given attributes, and what varies around them."""

from .factors import Attribute, Factor
from .fit import fit_population_model
from .model import PopulationModel
from .summary import summary_lines

__all__ = ["Attribute", "Factor", "PopulationModel", "fit_population_model", "summary_lines"]
