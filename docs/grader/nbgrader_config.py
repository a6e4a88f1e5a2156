# What a course with kvlab's exercises adds to nbgrader_config.py.
c = get_config()  # noqa: F821

# The notebooks are whole as they are: no cell of nbgrader's own above them.
c.IncludeHeaderFooter.header = ""
# What stands where an answer is to be written, so that nbgrader releases what lies in exercises/.
c.ClearSolutions.code_stub = {"python": 'raise NotImplementedError("not answered yet")'}
# Seconds that a cell may take, of autograde and of validate; nbgrader's own 30 are too few for
# chapter 6 on a busy machine, and a right answer would lose its marks without a word.
c.ExecutePreprocessor.timeout = 300
c.Execute.timeout = 300
