// An event source in plain JavaScript: heartbeats, pushed as they happen; see README.md.
import { randomUUID } from "node:crypto";

import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StdioServerTransport } from "@modelcontextprotocol/sdk/server/stdio.js";
import { z } from "zod";

const MOST_PENDING = 10_000;

class HeartbeatEventSource {
  constructor(config) {
    const options = { ...config, ...config.options };
    this.interval = options.interval ?? 5000;
    this.eventTypes = options.eventTypes ?? ["node.heartbeat"];
    this.push = options.push ?? true;
    this.metadata = { source: config.name ?? "node-example" };
    this.pending = [];
    this.emitted = 0;
    this.beats = 0;
    this.timer = undefined;

    this.server = new McpServer(
      { name: "node-example", version: "1.0.0" },
      { capabilities: { tools: {}, resources: {} } },
    );
    this.registerTools();
    this.registerResources();
    // Nothing may be pushed before the host has said that it is ready.
    this.server.server.oninitialized = () => this.start();
  }

  registerTools() {
    const answer = (value) => ({ content: [{ type: "text", text: JSON.stringify(value) }] });

    this.server.registerTool(
      "emit_event",
      {
        description: "Emit one event from this source",
        inputSchema: {
          type: z.string().min(1).describe("Event type"),
          payload: z.record(z.string(), z.unknown()).optional().describe("Event payload"),
          metadata: z.record(z.string(), z.unknown()).optional().describe("Event metadata"),
        },
      },
      async ({ type, payload, metadata }) =>
        answer({ success: true, eventId: await this.emit(type, payload, metadata) }),
    );
    this.server.registerTool(
      "list_event_types",
      { description: "List the event types of this source" },
      async () => answer(this.eventTypes),
    );
    this.server.registerTool(
      "get_source_status",
      { description: "Tell the status of this source" },
      async () => answer(this.status()),
    );
    this.server.registerTool(
      "list_pending_events",
      { description: "Hand out the events gathered since the last call; always empty for a source that pushes them" },
      async () => answer(this.pending.splice(0)),
    );
  }

  registerResources() {
    const resource = (kind, description, value) =>
      this.server.registerResource(
        kind,
        `event-source://node-example/${kind}`,
        { description, mimeType: "application/json" },
        async (uri) => ({ contents: [{ uri: uri.href, mimeType: "application/json", text: JSON.stringify(value()) }] }),
      );
    resource("status", "Current status of this source", () => this.status());
    resource("events", "Its event types", () => this.eventTypes);
  }

  status() {
    return { status: this.timer ? "running" : "stopped", eventsEmitted: this.emitted, interval: this.interval };
  }

  async emit(type, payload = {}, metadata = {}) {
    const event = {
      id: randomUUID(),
      type,
      timestamp: Date.now(),
      metadata: { ...this.metadata, ...metadata },
      payload,
    };
    if (this.push) {
      await this.server.server.notification({
        method: "notifications/eventsource/emitted",
        params: { level: "info", data: event },
      });
    } else {
      this.pending.push(event);
      if (this.pending.length > MOST_PENDING) this.pending.shift();
    }
    this.emitted += 1;
    return event.id;
  }

  start() {
    this.timer ??= setInterval(() => {
      this.beats += 1;
      this.emit(this.eventTypes[0], { count: this.beats, timestamp: Date.now() }).catch((error) => {
        console.error("heartbeat:", error.message);
      });
    }, this.interval);
  }

  async run() {
    // The host closes stdin to end this process; the transport would keep it alive.
    process.stdin.once("end", () => process.exit(0));
    await this.server.connect(new StdioServerTransport());
  }
}

await new HeartbeatEventSource(JSON.parse(process.env.MCP_SERVER_CONFIG || "{}")).run();
