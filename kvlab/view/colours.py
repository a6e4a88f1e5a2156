"""The book's colours, those of Okabe and Ito's palette, which colour-blind readers tell apart."""

BLUE, ORANGE, GREEN, SKY = "#0072B2", "#D55E00", "#009E73", "#56B4E9"
PINK, AMBER = "#CC79A7", "#E69F00"
GREY, PALE, INK = "#7A7A7A", "#F2F2F2", "#222222"
# What stands for them where a drawing follows a dark page: the same hues, lighter.
ON_DARK = {
    BLUE: "#6CBDF0", ORANGE: "#FF9D57", GREEN: "#4CCFA5", PINK: "#E7A6CB", GREY: "#9AA0A6",
    INK: "#ECECEC", PALE: "#2B3138", "#5A5A5A": "#B9BEC4", "#FFFFFF": "#1B1F24",
}  # fmt: skip
