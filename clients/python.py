"""The shortest correct client in Python (pip install requests): sends one message, then prints every event of a room.

    TOKEN=… python python.py http://127.0.0.1:8080 lobby 'hello'

The cursor is kept in CURSOR_FILE, so the next run goes on where this one ended.
"""

import json
import os
import pathlib
import sys
import time
import uuid

import requests

url, room, text = sys.argv[1:]
place = pathlib.Path(os.environ.get("CURSOR_FILE", f"cursor.{room}"))
session = requests.Session()
session.headers["Authorization"] = "Bearer " + os.environ["TOKEN"]


def ask(method, path, **what):
    """Asks until there is an answer that another attempt would not change."""
    while True:
        try:
            answer = session.request(method, url + path, timeout=(5, 60), **what)
            if answer.ok:
                return answer.json()
            problem = answer.json()
            if not problem.get("retryable"):
                raise SystemExit(f"{problem['code']}: {problem['detail']}")
            time.sleep(problem.get("retry_after_ms", 1000) / 1000)
        except (requests.RequestException, ValueError) as error:
            print(error, file=sys.stderr)
            time.sleep(1)


# With a key it is safe to send again until there is an answer: it stands in the room once.
message = {"key": str(uuid.uuid4()), "body": {"text": text}}
ask("POST", f"/v1/rooms/{room}/messages", json=message)

# At first from the room's beginning. After an error again with the same cursor: reading takes nothing away.
cursor = place.read_text() if place.exists() else "earliest"
while True:
    page = ask("GET", "/v1/events", params={"rooms": room, "cursor": cursor, "wait": 25})
    for event in page["events"]:
        print(json.dumps(event, ensure_ascii=False), flush=True)
    cursor = page["cursor"]
    place.write_text(cursor)
