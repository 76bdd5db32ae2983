const [start, bar, step, log] = ["start", "bar", "step", "log"].map((id) =>
  document.getElementById(id));

start.onclick = () => {
  log.textContent = "";
  const source = new EventSource("api/process/stream");
  const on = (name, tell) => source.addEventListener(name, (event) => {
    if (event.data !== undefined) tell(JSON.parse(event.data));
    else step.textContent = source.readyState === EventSource.CLOSED ? "refused" : "cut; coming back";
  });
  on("progress", (told) => {
    bar.value = told.percent;
    step.textContent = `${told.current_step}/${told.total_steps} ${told.step_name}`;
  });
  on("log", (told) => { log.textContent += `${told.level.padEnd(8)} ${told.message}\n`; });
  on("complete", (told) => {
    step.textContent = `done: ${JSON.stringify(told.result)}`;
    source.close();
  });
  on("error", (told) => { step.textContent = `failed: ${told.error}`; source.close(); });
};
