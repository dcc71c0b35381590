"""The script that people write: paho's callback, json, numpy, session.run, publish.

Usage: script.py MODEL HOST PORT TOPIC_IN TOPIC_OUT [--one-thread]
"""

import json
import sys

import numpy as np
import onnxruntime as ort
import paho.mqtt.client as mqtt

MODEL, HOST, PORT, TOPIC_IN, TOPIC_OUT = sys.argv[1:6]
options = ort.SessionOptions()
if "--one-thread" in sys.argv:
    options.intra_op_num_threads = 1
session = ort.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
_, LENGTH, CHANNELS = session.get_inputs()[0].shape
INPUT = session.get_inputs()[0].name
window = np.zeros((LENGTH, CHANNELS), np.float32)
count = 0


def on_connect(client, _data, _flags, _code, _properties):
    client.subscribe(TOPIC_IN)


def on_message(client, _data, message):
    global window, count
    reading = json.loads(message.payload)
    window = np.roll(window, -1, axis=0)
    window[-1] = [reading[f"c{number}"] for number in range(CHANNELS)]
    count += 1
    if count < LENGTH:
        return
    scores = session.run(["scores"], {INPUT: window[np.newaxis]})[0][0]
    label = int(scores.argmax())
    answer = {"reading": count, "label": label, "score": float(scores[label])}
    client.publish(TOPIC_OUT, json.dumps(answer))


client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.on_connect = on_connect
client.on_message = on_message
client.connect(HOST, int(PORT))
client.loop_forever()
