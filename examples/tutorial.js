// Each button is a stream. GETs are watched by an EventSource, which comes back by itself when it is
// cut; what is POSTed is read by fetch.

const NAMES = ["message", "start", "status", "progress", "log", "thought", "thinking", "tool",
  "token", "countdown", "result", "complete", "error", "cancelled"];
const STREAMS = {
  "Hello": ["GET", "stream/hello"],
  "Progress": ["GET", "stream/progress"],
  "Countdown": ["GET", "countdown/5"],
  "Countdown that is too slow": ["GET", "countdown/5?timeout=2"],
  "A task": ["POST", "tasks/execute/stream",
    { title: "A few words", texts: ["to be or not to be", "that is the question"] }],
  "Agent": ["GET", "agent/stream"],
  "Thoughts": ["GET", "agent/think/stream"],
  "Agent, by POST": ["POST", "agent/process/stream", { query: "Add 19 and 23, please." }],
};

const [log, state, stop] = ["log", "state", "stop"].map((id) => document.getElementById(id));
let leave = () => {};

function show(type, data) {
  log.textContent += `${type.padEnd(10)} ${data}\n`;
}

function over(how) {
  leave();
  leave = () => {};
  stop.disabled = true;
  state.textContent = how;
}

function told(type, data) {
  show(type, data);
  if (["complete", "cancelled"].includes(type) || (type === "error" && data)) over(type);
}

function watch(address) {
  const source = new EventSource(address);
  leave = () => source.close();
  for (const name of NAMES) {
    source.addEventListener(name, (event) => {
      if (event.data !== undefined) told(name, event.data);
      // The browser's own error event: it comes back by itself, unless it was refused.
      else if (source.readyState === EventSource.CLOSED) over("refused");
      else state.textContent = "connecting again";
    });
  }
  source.onopen = () => { state.textContent = "watching"; };
}

async function post(address, body) {
  const control = new AbortController();
  leave = () => control.abort();
  const answer = await fetch(address, {
    method: "POST", body: JSON.stringify(body), signal: control.signal,
    headers: { "content-type": "application/json", accept: "text/event-stream" },
  });
  if (!answer.ok) return over(`refused: ${answer.status}`);
  state.textContent = "watching";
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const frames = (rest + value).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      const lines = frame.split("\n");
      const field = (name) => lines.filter((line) => line.startsWith(`${name}: `))
        .map((line) => line.slice(name.length + 2)).join("\n");
      if (field("data")) told(field("event") || "message", field("data"));
    }
  }
}

for (const [name, [method, address, body]] of Object.entries(STREAMS)) {
  const button = document.createElement("button");
  button.textContent = name;
  button.onclick = () => {
    over("connecting");
    log.textContent = "";
    stop.disabled = false;
    if (method === "GET") watch(address);
    else post(address, body).catch(() => {});
  };
  document.getElementById("try").append(button, " ");
}
stop.onclick = () => over("left");
