"""A second right answer to each exercise, in another style than the solution's, chapter by chapter.

They are read as text, as `kvlab grade` reads a notebook's cells.
"""

import importlib
import pkgutil

ANSWERS = {
    number: source
    for module in pkgutil.iter_modules(__path__)
    for number, source in importlib.import_module(f"{__name__}.{module.name}").ANSWERS.items()
}
