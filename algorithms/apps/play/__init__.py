"""`aipo play`: a person plays the policy, or a helper, in the terminal.

person.py     a person as a policy and as a helper: whoever asks waits for what is typed
session.py    one episode after the other, step by step, without a terminal
turns.py      what is typed -> a turn: asking, answering, sending as it is
blocks.py     segments -> blocks on the screen, in their source's colour
editor.py     a person's own editor
help_text.py  what F1 shows
app.py        the terminal; needs the package textual
"""
