"""What all figures share: the palette, base and adapted always in the same two colours, and the types for the signatures of nodes."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from plotly.graph_objects import Figure as PlotlyFigure
else:
    # Kedro evaluates the annotations of nodes at start, and these libraries take seconds to import.
    Figure = PlotlyFigure = object

__all__ = ["ADAPTED_COLOUR", "BASE_COLOUR", "Figure", "PlotlyFigure"]

# Okabe and Ito's palette, told apart with every common colour vision deficiency.
BASE_COLOUR, ADAPTED_COLOUR = "#0072B2", "#D55E00"
