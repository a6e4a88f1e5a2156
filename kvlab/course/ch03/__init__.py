"""Chapter 3, "How many libraries are in the building?"."""

NOTEBOOK = "03_heads"
INTRODUCTION = """
# Exercises to chapter 3: heads

Eight query heads share two libraries, that is two key/value heads: what shrinks, and by how much? First you
cut a projection into heads and lay them side by side again. Then you count a model's parameters part by part, and
see which of them depend on the number of libraries.
"""
