// Asks a Modelfleet device over MQTT 5 with mqtt.js: npm install mqtt
//
//   node ask.mjs mqtt://127.0.0.1 edge-1 lenet 7.png [COUNT]
//
// A request goes to modelfleet/v1/devices/<device>/infer/<model>, its answer comes to this client's own reply topic, with
// the request's correlation data: modelfleet-replies/<user>/<random>, as the broker rules of docs/broker.md allow. MQTT itself promises no answer: a request without one is sent again after a while and after
// a lost connection, until its time is over. A device runs a request with an `id` once, however often it comes.
// An error is a result with `code`; docs/codes.md lists the codes.

import mqtt from "mqtt";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const REPEAT_MS = 3000;
const NO_SUBSCRIBERS = 16, REFUSED = 128; // reasons of a PUBACK
const AGAIN = new Set(["overloaded", "model_not_ready", "worker_crashed", "run_timeout"]);

/** The device answered with an error or not at all (`no_answer`), or is not there, or the broker is not. */
export class DeviceError extends Error {
  constructor(code, message) {
    super(`${code}: ${message}`);
    this.code = code;
  }
}

/** A connection to the fleet's broker. `await Fleet.connect(url)`, then `ask`, then `end`. */
export class Fleet {
  #client;
  #prefix;
  #replyTopic;
  #pending = new Map();
  #sent = new Map(); // of a packet's identifier: the request's
  #seen = new Set(); // devices that have answered

  constructor(client, prefix) {
    this.#client = client;
    this.#prefix = prefix;
    this.#replyTopic = `modelfleet-replies/${client.options.username || "ask"}/${randomUUID()}`;
    client.on("message", (_topic, payload, packet) => this.#answered(payload, packet));
    client.on("packetsend", (packet) => {
      if (packet.cmd === "publish") this.#sent.set(packet.messageId, packet.properties?.correlationData?.toString());
    });
    client.on("packetreceive", (packet) => {
      if (packet.cmd === "puback") this.#acknowledged(packet); // publish() does not tell its callback of reason 16
    });
    // mqtt.js connects again by itself. What was asked and not answered by then may be lost: ask again.
    client.on("connect", async () => {
      await client.subscribeAsync(this.#replyTopic, { qos: 1 });
      for (const request of this.#pending.values()) this.#send(request);
    });
  }

  static async connect(url, { prefix = "modelfleet/v1", ...options } = {}) {
    const client = mqtt.connect(url, { protocolVersion: 5, reconnectPeriod: 500, queueQoSZero: false, ...options });
    const fleet = new Fleet(client, prefix);
    try {
      await once(client, "connect"); // raises what "error" tells
    } catch (error) {
      client.end(true);
      const why = error.message || error.code;
      throw new DeviceError("not_connected", `the broker at ${new URL(url).host} cannot be used: ${why}`);
    }
    client.on("error", (error) => console.error(`broker: ${error.message || error.code}`));
    return fleet;
  }

  /** A picture (Buffer) or a request of the Open Inference Protocol (object); answers with its result. */
  async ask(device, model, body, { timeout = 10_000, tries = 5 } = {}) {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#once(device, `infer/${model}`, body, timeout);
      } catch (error) {
        if (!AGAIN.has(error.code) || attempt >= tries) throw error;
        await new Promise((resolve) => setTimeout(resolve, 200 * 2 ** attempt * Math.random()));
      }
    }
  }

  /** What the device says of a model: readiness, inputs, outputs. */
  metadata(device, model, { timeout = 10_000 } = {}) {
    return this.#once(device, `metadata/${model}`, {}, timeout);
  }

  async end() {
    await this.#client.endAsync();
  }

  #once(device, rest, body, timeout) {
    const topic = `${this.#prefix}/devices/${device}/${rest}`;
    const picture = Buffer.isBuffer(body);
    const id = randomUUID();
    const request = {
      device,
      topic,
      payload: picture ? body : JSON.stringify({ id, ...body }),
      properties: {
        responseTopic: this.#replyTopic,
        correlationData: Buffer.from(id),
        contentType: picture ? (body[0] === 0x89 ? "image/png" : "image/jpeg") : "application/json",
        messageExpiryInterval: Math.max(1, Math.round(timeout / 1000)),
      },
    };
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        settle(reject, new DeviceError("no_answer", `${topic}: no answer within ${timeout} ms`));
      }, timeout);
      const repeat = setInterval(() => this.#send(request), REPEAT_MS);
      const settle = (settled, value) => {
        clearTimeout(timer);
        clearInterval(repeat);
        this.#pending.delete(id);
        settled(value);
      };
      this.#pending.set(id, {
        ...request,
        resolve: (value) => {
          this.#seen.add(device);
          settle(resolve, value);
        },
        reject: (error) => settle(reject, error),
      });
      this.#send(request);
    });
  }

  #send({ topic, payload, properties }) {
    // While the connection is away nothing is sent: "connect" above sends all that is pending.
    if (this.#client.connected) this.#client.publish(topic, payload, { qos: 1, properties });
  }

  #acknowledged({ messageId, reasonCode: reason }) {
    const request = this.#pending.get(this.#sent.get(messageId));
    this.#sent.delete(messageId);
    if (!request) return;
    if (reason >= REFUSED) {
      request.reject(new DeviceError("publication_refused", `${request.topic}: reason ${reason}`));
    } else if (reason === NO_SUBSCRIBERS && !this.#seen.has(request.device)) {
      // A device that was there is waited for: a broker that was started again may not know it yet.
      request.reject(new DeviceError("no_such_device", `no agent takes requests as ${request.device}`));
    }
  }

  #answered(payload, packet) {
    const request = this.#pending.get(packet.properties?.correlationData?.toString());
    if (!request) return; // an answer that came twice, or too late
    try {
      const answer = JSON.parse(payload.toString());
      if (answer.error) request.reject(new DeviceError(answer.code, answer.error));
      else request.resolve(answer);
    } catch (error) {
      request.reject(new DeviceError("bad_reply", error.message));
    }
  }
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [url, device, model, file, count = "1"] = process.argv.slice(2);
  if (!file) {
    console.error("usage: node ask.mjs mqtt://HOST[:PORT] DEVICE MODEL PICTURE [COUNT]");
    process.exit(2);
  }
  let fleet;
  try {
    fleet = await Fleet.connect(url);
    const { parameters } = await fleet.metadata(device, model);
    console.log(`ready: ${parameters.ready}`);
    for (let number = 0; number < Number(count); number++) {
      const { outputs } = await fleet.ask(device, model, await readFile(file));
      console.log(`label: ${outputs.find((output) => output.name === "label").data[0]}`);
      if (count !== "1") await new Promise((resolve) => setTimeout(resolve, 100));
    }
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  } finally {
    await fleet?.end();
  }
}
