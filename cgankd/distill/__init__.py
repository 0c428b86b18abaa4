"""KD losses that ride on M3: `make_distiller(name, **options)` gives one, and it compares `Outputs` on a `Batch`."""

from cgankd.distill.base import Batch as Batch
from cgankd.distill.methods import make_distiller as make_distiller
from cgankd.types import Outputs as Outputs
