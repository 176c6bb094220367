"""A device in Python over MQTT (pip install "paho-mqtt>=2"): sends a value, then prints every event of a room.

    KEY=nj_… python device.py 127.0.0.1 1883 main dev1 lobby 21.5

KEY is an API key of the device's user: `natterjack key create --of dev1 --name thermometer`.
"""

import json
import os
import sys
import uuid

import paho.mqtt.client as mqtt

host, port, tenant, user, room, value = sys.argv[1:]
# With a key it is safe to send again until it stands in the room.
hello = json.dumps({"body": {"text": value}, "key": str(uuid.uuid4())})

# The server keeps what comes while the device is away.
client = mqtt.Client(
    mqtt.CallbackAPIVersion.VERSION2, client_id=f"{tenant}:{user}", protocol=mqtt.MQTTv311, clean_session=False
)
client.username_pw_set(user, os.environ["KEY"])
client.on_connect = lambda c, *_: c.subscribe([(f"chat/room/{tenant}/{room}/log", 1), (f"chat/user/{tenant}/{user}", 0)])
client.on_subscribe = lambda c, *_: c.publish(f"chat/in/{tenant}/{user}/{room}/msg", hello, qos=1)
client.on_message = lambda c, _, message: print(message.payload.decode(), flush=True)
client.connect(host, int(port))
client.loop_forever()
