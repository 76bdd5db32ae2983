// What a user would write: the types of the client fit those of the official ones.
import { HttpAgent } from "@ag-ui/client";
import { DefaultChatTransport } from "ai";
import OpenAI from "openai";

import { healingFetch, StreamLost } from "../../../clients/js/src/index.js";
import type { HealingOptions, Reconnecting } from "../../../clients/js/src/index.js";

const options: HealingOptions = {
  tries: 3,
  firstPause: 100,
  longestPause: 1000,
  silence: 0,
  fetch: globalThis.fetch,
  onReconnect: (about: Reconnecting) => console.log(about.try, about.pause, about.lastEventId),
};
const fetch: typeof globalThis.fetch = healingFetch(options);

new HttpAgent({ url: "http://127.0.0.1/agui", fetch: healingFetch() });
new DefaultChatTransport({ api: "/api/chat", fetch });
new OpenAI({ apiKey: "none", baseURL: "http://127.0.0.1/v1", fetch });

const error: unknown = new StreamLost("gone", { status: 403 });
if (error instanceof StreamLost) {
  const status: number | undefined = error.status;
  const place: string = error.lastEventId;
  console.log(status, place, error.cause, error.message);
}

// @ts-expect-error a time is a number
healingFetch({ silence: "1s" });
// @ts-expect-error there is no such option
healingFetch({ retries: 3 });
