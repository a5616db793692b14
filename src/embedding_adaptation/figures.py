"""What all figures share: the palette, with fixed colours for base and adapted, and the types for node signatures."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from plotly.graph_objects import Figure as PlotlyFigure
else:
    # Kedro evaluates the annotations of nodes at start, and importing these libraries takes seconds.
    Figure = PlotlyFigure = object

__all__ = ["ADAPTED_COLOUR", "BASE_COLOUR", "Figure", "PlotlyFigure"]

# Okabe and Ito's palette, distinguishable with every common colour vision deficiency.
BASE_COLOUR, ADAPTED_COLOUR = "#0072B2", "#D55E00"
