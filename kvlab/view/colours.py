"""The book's colours, those of Okabe and Ito's palette, which colour-blind readers tell apart."""

BLUE, ORANGE, GREEN, SKY = "#0072B2", "#D55E00", "#009E73", "#56B4E9"
PINK, AMBER = "#CC79A7", "#E69F00"
GREY, PALE, INK = "#7A7A7A", "#F2F2F2", "#222222"
