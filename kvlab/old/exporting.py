from kvlab._moved import moved

moved(__name__, "kvlab.shell.export")
