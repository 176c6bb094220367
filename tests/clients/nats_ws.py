"""A NATS client over WebSocket (nats-py), driven by JSON lines.

Standard input: {"id": N, "op": "connect" | "subscribe" | "request" | "publish", ...}; data is base64.
Standard output: {"answer": {"id": N, "value": {...}}}, {"message": {...}}, {"happened": "..."}.
"""

import asyncio
import base64
import json
import ssl
import sys

from nats.aio.client import Client

ANSWER_WITHIN = 20


def tell(**line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def happened(what):
    tell(happened=what)


async def deliver(message):
    data = base64.b64encode(message.data).decode()
    tell(message={"subject": message.subject, "headers": dict(message.headers or {}), "data": data})


async def on_disconnect():
    await happened("disconnected")


async def on_reconnect():
    await happened("connected")


async def connect(options):
    client = Client()

    async def failed(error):
        await happened(f"error: {error}")
        # While it is being connected, a refusal is final.
        if not client.is_connected and not failed.was_connected:
            failed.refusal = str(error)

    failed.was_connected = False
    failed.refusal = None

    trusted = {"tls": ssl.create_default_context(cafile=options["ca"])} if options.get("ca") else {}

    async def try_once():
        await client.connect(
            options["url"],
            token=options["token"],
            inbox_prefix=options["inbox"],
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.05,
            connect_timeout=20,
            error_cb=failed,
            disconnected_cb=on_disconnect,
            reconnected_cb=on_reconnect,
            **trusted,
        )

    attempt = asyncio.ensure_future(try_once())
    while not attempt.done() and failed.refusal is None:
        await asyncio.wait([attempt], timeout=0.02)
    if not attempt.done():
        attempt.cancel()
        raise RuntimeError(failed.refusal)
    await attempt
    failed.was_connected = True
    await happened("connected")
    return client


async def answer(client, command):
    subject, data = command["subject"], base64.b64decode(command.get("data", ""))
    headers = command.get("headers")
    if command["op"] == "subscribe":
        await client.subscribe(subject, cb=deliver)
        await client.flush(ANSWER_WITHIN)
        return {}
    if command["op"] == "publish":
        await client.publish(subject, data, reply=command.get("reply", ""), headers=headers)
        await client.flush(ANSWER_WITHIN)
        return {}
    if command["op"] == "request":
        message = await client.request(subject, data, timeout=ANSWER_WITHIN, headers=headers)
        return {"data": base64.b64encode(message.data).decode()}
    raise ValueError(command["op"])


async def handle(client, command):
    try:
        value = await answer(client, command)
    except Exception as error:  # The test judges it.
        value = {"error": f"{type(error).__name__}: {error}"}
    tell(answer={"id": command["id"], "value": value})


async def main():
    commands = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    options = json.loads(await commands.readline())
    try:
        client = await connect(options)
    except Exception as error:
        tell(answer={"id": options["id"], "value": {"error": f"{type(error).__name__}: {error}"}})
        return
    tell(answer={"id": options["id"], "value": {}})
    running = set()
    while line := await commands.readline():
        task = asyncio.ensure_future(handle(client, json.loads(line)))
        running.add(task)
        task.add_done_callback(running.discard)


asyncio.run(main())
