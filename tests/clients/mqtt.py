"""An MQTT 3.1.1 device (paho-mqtt), driven by JSON lines.

Standard input: {"id": N, "op": "connect" | "subscribe" | "publish" | "disconnect", ...}; data is base64.
Standard output: {"answer": {"id": N, "value": {...}}}, {"message": {...}}, {"happened": "..."}.
"""

import base64
import json
import sys
import threading

import paho.mqtt.client as mqtt

ANSWER_WITHIN = 20
output = threading.Lock()


def tell(**line):
    with output:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


class Device:
    def __init__(self, options):
        self.filters = []
        self.asked = {}
        self.asking = threading.Lock()
        self.connected = threading.Event()
        self.disconnected = threading.Event()
        self.refusal = None
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=options["client_id"],
            protocol=mqtt.MQTTv311,
            clean_session=options.get("clean", True),
        )
        self.client.username_pw_set(options["user"], options["token"])
        if options.get("ca"):
            self.client.tls_set(ca_certs=options["ca"])
        self.client.reconnect_delay_set(min_delay=1, max_delay=1)
        self.client.on_connect = self.on_connect
        self.client.on_disconnect = self.on_disconnect
        self.client.on_subscribe = self.on_subscribe
        self.client.on_message = self.on_message
        self.client.connect(options["host"], options["port"], keepalive=20)
        self.client.loop_start()
        self.connected.wait(ANSWER_WITHIN)
        if not self.client.is_connected():
            raise RuntimeError(self.refusal or "no answer to CONNECT")

    def on_connect(self, client, _data, flags, reason, _properties):
        if reason.is_failure:
            self.refusal = str(reason)
        else:
            tell(happened="connected")
            if flags.session_present:
                tell(happened="session present")
            for wanted in self.filters:
                self.subscribe(wanted, None)
        self.connected.set()

    def on_disconnect(self, *_):
        tell(happened="disconnected")
        self.disconnected.set()

    def subscribe(self, wanted, command):
        with self.asking:
            _, packet = self.client.subscribe(wanted, qos=1)
            self.asked[packet] = (wanted, command)

    def on_subscribe(self, _client, _data, packet, reasons, _properties):
        with self.asking:
            wanted, command = self.asked.pop(packet)
        granted = not reasons[0].is_failure
        tell(happened=f"{'granted' if granted else 'refused'} {wanted}")
        if command is not None:
            tell(answer={"id": command, "value": {"granted": granted}})

    def on_message(self, _client, _data, message):
        data = base64.b64encode(message.payload).decode()
        tell(message={"subject": message.topic, "headers": {"qos": str(message.qos)}, "data": data})


def main():
    options = json.loads(sys.stdin.readline())
    try:
        device = Device(options)
    except Exception as error:  # The test judges it.
        tell(answer={"id": options["id"], "value": {"error": f"{type(error).__name__}: {error}"}})
        return
    tell(answer={"id": options["id"], "value": {}})
    for line in sys.stdin:
        command = json.loads(line)
        if command["op"] == "subscribe":
            device.filters.append(command["subject"])
            device.subscribe(command["subject"], command["id"])
            continue
        if command["op"] == "disconnect":
            device.client.disconnect()
            device.disconnected.wait(ANSWER_WITHIN)
            tell(answer={"id": command["id"], "value": {}})
            continue
        sent = device.client.publish(command["subject"], base64.b64decode(command["data"]), qos=command.get("qos", 1))
        try:
            sent.wait_for_publish(ANSWER_WITHIN)
            value = {"acknowledged": sent.is_published()}
        except RuntimeError as error:
            value = {"error": str(error)}
        tell(answer={"id": command["id"], "value": value})


main()
