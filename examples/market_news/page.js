// Start begins a run and follows it; Stop cancels it. The browser reconnects by itself, with the
// last id it has, and goes on with the same run: no article comes twice, and none is missing.

const $ = (id) => document.getElementById(id);

let source = null;
let run = null;
let quiet = null;

function show(state, said = "") {
  $("state").textContent = state;
  $("state").className = state;
  $("notice").textContent = said;
  const isOn = source !== null;
  $("start").disabled = isOn;
  $("stop").disabled = !isOn;
}

function close(state, said) {
  clearTimeout(quiet);
  source?.close();
  source = run = null;
  show(state, said);
}

// A title is anybody's text, and an address may be more than an address.
function item(article) {
  const line = document.createElement("li");
  const link = document.createElement("a");
  link.textContent = article.title;
  if (/^https?:/i.test(article.url ?? "")) {
    link.href = article.url;
    link.rel = "noopener noreferrer";
    link.target = "_blank";
  }
  const about = document.createElement("small");
  const time = article.time ? new Date(article.time).toLocaleString() : "";
  about.textContent = ` ${[article.source, article.category, time].filter(Boolean).join(" · ")}`;
  line.append(link, about);
  return line;
}

function told(params) {
  $("progress").value = params.progress;
  let update;
  try {
    update = JSON.parse(params.message);
  } catch {
    return; // "connected"
  }
  $("news").prepend(...(update.news?.articles ?? []).map(item));
  const problems = (update.problems ?? []).map(({ source, what }) => `${source}: ${what}`);
  $("notice").textContent = [update.notice, ...problems].filter(Boolean).join(" ");
}

$("asked").addEventListener("submit", (event) => {
  event.preventDefault();
  const asked = new FormData(event.target);
  const query = new URLSearchParams({
    interval: Number(asked.get("interval")) * 1000,
    duration: Number(asked.get("duration")) * 1000,
  });
  if (asked.get("symbol").trim()) query.set("symbol", asked.get("symbol").trim());
  $("news").replaceChildren();
  $("progress").value = 0;
  source = new EventSource(`api/mcp/stream-news?${query}`);
  show("connecting");
  source.addEventListener("open", () => show("live", $("notice").textContent));
  source.addEventListener("message", (message) => {
    run = message.lastEventId.split(":")[0] || run;
    const { method, params, result, error } = JSON.parse(message.data);
    if (method === "notifications/progress") told(params);
    else if (result) close("ended", result.content?.map((part) => part.text).join(" "));
    else if (error) close(error.code === -32800 ? "stopped" : "failed", error.message);
  });
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) close("failed", "The server refused: too many starts, or no news server.");
    else show("reconnecting", $("notice").textContent);
  });
});

$("stop").addEventListener("click", async () => {
  const stopping = run;
  if (stopping === null) return close("stopped");
  $("stop").disabled = true;
  await fetch(`runs/${stopping}/cancel`, { method: "POST" });
  // The end comes by the stream. Should it not, the page is stopped all the same.
  quiet = setTimeout(() => close("stopped"), 5000);
});
