// Follows one view. The controller says every second that it is there; when it does not, what is shown is of the past.
// An EventSource cannot send a token, so the events are read by hand.

import { ask, headers } from "./session.js";

const LOST_MS = 5000;
const AGAIN_MS = 2000;

export function follow(query, { onDocument, onState, onStranger }) {
  let again, heard = performance.now(), ended = false, lost = true;
  const abort = new AbortController();
  const state = (name) => onState(name, (performance.now() - heard) / 1000);
  const alive = () => {
    heard = performance.now();
    lost = false;
    state("live");
  };
  const take = (event) => {
    if (ended) return;
    alive();
    const data = event.match(/^data: ?(.*)$/m);
    if (/^event: ?document$/m.test(event) && data) onDocument(JSON.parse(data[1]));
  };
  // Returns whether to go on at once: the controller ends streams now and then, to be asked again.
  const read = async () => {
    const who = await ask();
    if (ended) return false;
    if (!who.role) {
      ended = true;
      onStranger();
      return false;
    }
    const answer = await fetch(`api/page/live?${query}`, { headers: headers(), signal: abort.signal, cache: "no-store" });
    if (!answer.ok) return false;
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = ""; ;) {
      const { done, value } = await reader.read();
      if (done) return true;
      const events = (text + value).split("\n\n");
      text = events.pop();
      events.forEach(take);
    }
  };
  const connect = async () => {
    const goOn = await read().catch(() => false);
    if (ended) return;
    if (!goOn && !lost) state("waiting");
    again = setTimeout(connect, goOn ? 100 : AGAIN_MS);
  };
  const watch = setInterval(() => {
    if (ended || performance.now() - heard < LOST_MS) return;
    lost = true;
    state("lost");
  }, 500);
  connect();
  return () => {
    ended = true;
    clearInterval(watch);
    clearTimeout(again);
    abort.abort();
  };
}
