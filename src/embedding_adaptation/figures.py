"""The palette of all figures: base and adapted always in the same two colours."""

# Okabe and Ito's palette, told apart with every common colour vision deficiency.
BASE_COLOUR, ADAPTED_COLOUR = "#0072B2", "#D55E00"
