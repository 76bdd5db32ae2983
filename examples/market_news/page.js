// Start begins a run and follows it; Stop cancels it. The browser reconnects by itself, with the
// last id it has, and goes on with the same run: no article comes twice, and none is missing.

const $ = (id) => document.getElementById(id);

// What is followed now: its source, its run once that is known, and whether it is to stop.
let following = null;

function show(state, said = "") {
  $("state").textContent = state;
  $("state").className = state;
  $("notice").textContent = said;
  $("start").disabled = following !== null;
  $("stop").disabled = following === null || following.isStopping;
}

function leave(it, state, said) {
  it.source.close();
  // An answer that comes late is for a stream that is over.
  if (following !== it) return;
  following = null;
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

function tell(params) {
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

async function cancel(it) {
  try {
    const answer = await fetch(`runs/${it.run}/cancel`, { method: "POST" });
    if (!answer.ok) throw new Error(`the server said ${answer.status}`);
    // The end comes by the stream.
  } catch (error) {
    if (following !== it) return;
    it.isStopping = false;
    show("live", `It could not be stopped: ${error.message}. Try again.`);
  }
}

function take(it, message) {
  const isNew = it.run === null;
  it.run = message.lastEventId.split(":")[0] || it.run;
  // Stop was pressed before there was anything to stop.
  if (isNew && it.run !== null && it.isStopping) cancel(it);
  const { method, params, result, error } = JSON.parse(message.data);
  if (method === "notifications/progress") tell(params);
  else if (result) leave(it, "ended", result.content?.map((part) => part.text).join(" "));
  else if (error) leave(it, error.code === -32800 ? "stopped" : "failed", error.message);
}

$("asked").addEventListener("submit", (event) => {
  event.preventDefault();
  if (following !== null) return;
  const asked = new FormData(event.target);
  const query = new URLSearchParams({
    interval: Number(asked.get("interval")) * 1000,
    duration: Number(asked.get("duration")) * 1000,
  });
  if (asked.get("symbol").trim()) query.set("symbol", asked.get("symbol").trim());
  $("news").replaceChildren();
  $("progress").value = 0;
  const source = new EventSource(`api/mcp/stream-news?${query}`);
  const it = { source, run: null, isStopping: false };
  following = it;
  show("connecting");
  source.addEventListener("open", () => show("live", $("notice").textContent));
  source.addEventListener("message", (message) => take(it, message));
  source.addEventListener("error", () => {
    if (source.readyState !== EventSource.CLOSED) show("reconnecting", $("notice").textContent);
    else if (it.run === null) leave(it, "failed", "The server refused: too many starts, or no news server.");
    else leave(it, "failed", "The server does not know this run any more.");
  });
});

$("stop").addEventListener("click", () => {
  following.isStopping = true;
  show($("state").textContent, $("notice").textContent);
  if (following.run !== null) cancel(following);
});
