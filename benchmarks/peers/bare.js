// Bare Node.js: mqtt.js, onnxruntime-node with one thread, publish.
// Usage: node bare.js MODEL HOST PORT TOPIC_IN TOPIC_OUT LENGTH CHANNELS
"use strict";
const mqtt = require("mqtt");
const ort = require("onnxruntime-node");

const [model, host, port, topicIn, topicOut] = process.argv.slice(2, 7);
const [length, channels] = process.argv.slice(7).map(Number);

async function main() {
  const session = await ort.InferenceSession.create(model, { intraOpNumThreads: 1 });
  const input = session.inputNames[0];
  const window = new Float32Array(length * channels);
  let count = 0;
  let last = Promise.resolve();

  async function decide(number, values) {
    const tensor = new ort.Tensor("float32", values, [1, length, channels]);
    const { scores } = await session.run({ [input]: tensor }, ["scores"]);
    let label = 0;
    scores.data.forEach((score, at) => { if (score > scores.data[label]) label = at; });
    const answer = { reading: number, label, score: scores.data[label] };
    client.publish(topicOut, JSON.stringify(answer));
  }

  const client = mqtt.connect({ host, port: Number(port) });
  client.on("connect", () => client.subscribe(topicIn));
  client.on("message", (_topic, payload) => {
    const reading = JSON.parse(payload);
    window.copyWithin(0, channels);
    for (let at = 0; at < channels; at += 1) window[(length - 1) * channels + at] = reading[`c${at}`];
    count += 1;
    if (count < length) return;
    const number = count;
    const values = window.slice();
    last = last.then(() => decide(number, values));
  });
}

main();
