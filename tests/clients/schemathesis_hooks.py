"""For schemathesis: what keeps its requests short, and lets half of them reach a room that is there.

A poll does not wait for events, and none of them becomes a stream.
"""

import itertools

import schemathesis

THERE = {"room": "lobby", "user": "bob"}
count = itertools.count()


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.path == "/v1/events":
        query = dict(case.query or {})
        if str(query.get("wait", "0")).isdigit():
            query["wait"] = "0"
        if query.get("format") == "sse":
            query["format"] = "json"
        case.query = query
    if next(count) % 2:
        for name in THERE.keys() & (case.path_parameters or {}).keys():
            case.path_parameters[name] = THERE[name]
