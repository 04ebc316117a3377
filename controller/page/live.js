// Follows one view. The controller says every second that it is there; when it does not, what is shown is of the past.

const LOST_MS = 5000;
const AGAIN_MS = 2000;

export function follow(query, { onDocument, onState }) {
  let source, again, heard = performance.now(), ended = false, lost = true;
  const state = (name) => onState(name, (performance.now() - heard) / 1000);
  const alive = () => {
    heard = performance.now();
    lost = false;
    state("live");
  };
  const connect = () => {
    source = new EventSource(`api/page/live?${query}`);
    source.addEventListener("alive", alive);
    source.addEventListener("document", (event) => {
      alive();
      onDocument(JSON.parse(event.data));
    });
    source.onerror = () => {
      if (!lost) state("waiting");
      source.close();
      clearTimeout(again);
      if (!ended) again = setTimeout(connect, AGAIN_MS);
    };
  };
  const watch = setInterval(() => {
    if (performance.now() - heard < LOST_MS) return;
    lost = true;
    state("lost");
  }, 500);
  connect();
  return () => {
    ended = true;
    clearInterval(watch);
    clearTimeout(again);
    source.close();
  };
}
