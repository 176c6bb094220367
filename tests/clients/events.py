"""Readers of events over HTTP: server-sent events (requests, sseclient-py) and WebSocket (websockets), driven by JSON lines.

Standard input: {"id": N, "op": "connect" | "read" | "follow" | "open" | "say" | "close", ...}.
Standard output: {"answer": {"id": N, "value": {...}}}, {"message": {...}}, {"happened": "..."}; data is base64.
"""

import base64
import json
import ssl
import sys
import threading
import time
import urllib.parse

import requests
import sseclient
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

WITHIN = 30
COME_BACK = 0.1

lock = threading.Lock()
sockets = {}


def tell(**line):
    with lock:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def message(name, cursor, data):
    text = base64.b64encode(data.encode()).decode()
    tell(message={"subject": name, "headers": {"cursor": cursor or ""}, "data": text})


def authorization(options):
    return {"Authorization": "Bearer " + options["token"]} if options.get("token") else {}


class Refused(Exception):
    """An answer that is no stream: status and body."""


def raw(text, name):
    """The exact text of a value that stands last in a frame."""
    start = text.index('"%s":' % name) + len(name) + 3
    return text[start:-1]


def sse(options):
    """Yields (name, id, data) of each server-sent event."""
    headers = {"Accept": "text/event-stream", **authorization(options), **options.get("headers", {})}
    url = ("https://" if options.get("ca") else "http://") + options["address"] + options.get("path", "/v1/events/stream")
    parameters = {name: options[name] for name in ("cursor", "rooms", "ticket") if options.get(name)}
    trusted = options.get("ca", True)
    with requests.get(url, headers=headers, params=parameters, stream=True, timeout=(10, WITHIN), verify=trusted) as response:
        if response.status_code != 200:
            raise Refused(response.status_code, response.text)
        options["answered"] = dict(response.headers)
        for event in sseclient.SSEClient(response).events():
            yield event.event, event.id, event.data


def open_socket(options):
    pairs = {name: options[name] for name in ("cursor", "rooms", "ticket") if options.get(name)}
    query = "?" + urllib.parse.urlencode(pairs) if pairs else ""
    headers = {**authorization(options), **options.get("headers", {})}
    trusted = ssl.create_default_context(cafile=options["ca"]) if options.get("ca") else None
    try:
        return connect(
            ("wss://" if trusted else "ws://") + options["address"] + "/v1/ws" + query,
            ssl=trusted,
            additional_headers=headers,
            open_timeout=10,
            close_timeout=2,
            max_size=None,
            proxy=None,
            compression=None,
        )
    except InvalidStatus as error:
        raise Refused(error.response.status_code, error.response.body.decode()) from error


def ws(options):
    """Yields (op, cursor, data) of each frame."""
    with open_socket(options) as socket:
        while True:
            text = socket.recv(timeout=WITHIN)
            frame = json.loads(text)
            op = frame["op"]
            yield op, frame.get("cursor"), raw(text, "event") if op in ("event", "ephemeral") else text


TRANSPORTS = {"sse": (sse, "message"), "ws": (ws, "event")}


def read(options):
    """So many events behind a cursor: [cursor, event] each."""
    stream, wanted = TRANSPORTS[options["transport"]]
    got = []
    for name, cursor, data in stream(options):
        if name == wanted:
            got.append([cursor, data])
            if len(got) == options["count"]:
                return got
    return got


def follow(options):
    """Reads on for ever; comes back behind the last cursor when the connection ends."""
    stream, wanted = TRANSPORTS[options["transport"]]
    while True:
        try:
            for name, cursor, data in stream(options):
                if cursor:
                    options["cursor"] = cursor
                if name == wanted:
                    message(options["transport"], cursor, data)
                elif name == "error":
                    tell(happened="error " + data)
        except Refused as refused:
            tell(happened="refused %s %s" % refused.args)
        except (OSError, requests.RequestException, ConnectionClosed, EOFError) as error:
            tell(happened="lost: " + type(error).__name__)
        else:
            tell(happened="ended")
        if options.get("once"):
            return
        time.sleep(COME_BACK)


def listen(name, socket):
    try:
        for text in socket:
            message(name, "", text)
    except ConnectionClosed:
        pass
    tell(happened="closed %s %s" % (socket.protocol.close_code, socket.protocol.close_reason))


def answer(command):
    op = command["op"]
    if op == "connect":
        return {}
    if op == "read":
        return {"events": read(command)}
    if op == "follow":
        threading.Thread(target=follow, args=(command,), daemon=True).start()
        return {}
    if op == "open":
        socket = sockets[command["name"]] = open_socket(command)
        threading.Thread(target=listen, args=(command["name"], socket), daemon=True).start()
        return {}
    if op == "say":
        socket = sockets[command["name"]]
        socket.send(command["frame"].encode() if command.get("binary") else command["frame"])
        return {}
    if op == "close":
        sockets.pop(command["name"]).close()
        return {}
    raise ValueError(op)


def handle(command):
    try:
        value = answer(command)
    except Refused as refused:
        value = {"status": refused.args[0], "body": refused.args[1]}
    except Exception as error:  # The test judges it.
        value = {"error": f"{type(error).__name__}: {error}"}
    tell(answer={"id": command["id"], "value": value})


for line in sys.stdin:
    threading.Thread(target=handle, args=(json.loads(line),), daemon=True).start()
