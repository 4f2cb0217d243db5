"""Rankers over HTTP: one process, the dialects that clients already speak.

asking.py     what is asked and answered, whatever the dialect
dialects/     wire formats: a body to a RankRequest, a RankAnswer to a body; they know no HTTP
scales.py     scores on the scale that an answer states
served.py     a model under its name: a RankRequest in, a RankAnswer out
load.py       who is let in: how long a request would wait
keys.py       API keys, hashed
telemetry.py  metrics and a line for each request, without texts
app.py        the routes
running.py    from options to a listening server
"""
