from kvlab._moved import moved

moved(__name__, "kvlab.quality.report", "kvlab.quality.cells")


def run(*policies, text=None, **how):
    """The report as it was: the pocket model is asked for its own world, and has a text."""
    from kvlab.pocket import asking
    from kvlab.quality import report

    how = {"questions": asking.questions, "text": text or asking.own_text, **how}
    return report.run(*policies, **how)


def plot(report, path):
    from kvlab.view import pareto

    pareto.plot(report, path)


def world_question(*args, **how):
    from kvlab.pocket import asking

    return asking.world_question(*args, **how)
